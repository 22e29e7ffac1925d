"""What it costs to count the steps of chat templates while they are filled in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

from align import encode_batch
from align.text.conversation import Conversation
from experiments.bench.measure import Bar, paired_ratio

LIMIT = 1.8
TURNS, BATCH = 6, 8
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


def counting(tokenizer: Any, conversations: int = 500) -> Bar:
    """Tokenising conversations, beside the same without a bound on their template.

    Args:
        tokenizer: gets a chat template for as long as this takes.
        conversations: how many, in batches as a training step takes them.
    """
    talks = [_conversation(number) for number in range(conversations)]

    def encoded() -> None:
        for first in range(0, len(talks), BATCH):
            encode_batch(tokenizer, talks[first : first + BATCH])

    unbounded = partial(_unbounded, encoded)
    with patch.object(tokenizer, "chat_template", TEMPLATE):
        ratio = paired_ratio(encoded, unbounded)
    name = f"{TURNS} turns: tokenise, template counted / uncounted"
    return Bar(name, ratio, LIMIT)


def _unbounded(work: Callable[[], None]) -> None:
    with patch("align.text.chat.within_steps", lambda fill, what: fill()):
        work()


def _conversation(number: int) -> Conversation:
    return Conversation(
        [
            {
                "role": ("user", "assistant")[turn % 2],
                "content": f"This is turn {turn} of talk {number}, about routers.",
            }
            for turn in range(TURNS)
        ]
    )
