"""A few lines that a student writes before and after a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

from align.text.documents import TextSample
from align.text.prompted import Prompted
from experiments.config.measuring import SamplesConfig
from experiments.writing.drawing import Drawing
from experiments.writing.openings import beginning
from experiments.writing.writer import lent

PROMPT_TOKENS = 12
"""Most tokens of a prompt that is taken from a text."""


def samples_of(
    settings: SamplesConfig,
    texts: Sequence[TextSample],
    tokenizer: Any,
    student: Callable[[bool], Any],
    seed: int = 0,
) -> list[dict[str, str]]:
    """Let the student before and after a run go on from the same words.

    No other process takes part.

    Args:
        settings: ``samples``.
        texts: held-out, whose first words are prompts where none are given.
        tokenizer: the student's.
        student: loads it onto its device; takes whether it is the one after the run.
        seed: of what is drawn, with ``temperature``.

    Returns:
        ``prompt``, ``before`` and ``after`` of each; empty where none are asked for.

    Raises:
        InputError: a prompt that the student cannot read.
    """
    prompts = prompts_of(settings, texts, tokenizer)
    if not prompts:
        return []
    columns = [  # one in memory at a time
        written_now(settings, prompts, tokenizer, student(after), seed)
        for after in (False, True)
    ]
    return [
        {"prompt": prompt, "before": before, "after": after}
        for prompt, before, after in zip(prompts, *columns, strict=True)
    ]


def prompts_of(
    settings: SamplesConfig, texts: Sequence[TextSample], tokenizer: Any
) -> list[str]:
    """What a student goes on from: the settings' prompts, or first words of texts."""
    if isinstance(settings.prompts, int):
        return first_words(texts, tokenizer, settings.prompts)
    return settings.prompts


def written_now(
    settings: SamplesConfig,
    prompts: Sequence[str],
    tokenizer: Any,
    model: Any,
    seed: int,
) -> list[str]:
    """What a student writes after each prompt, as it stands.

    Args:
        settings: how much of it, and how drawn.
        prompts: to go on from.
        tokenizer: the student's.
        model: it, on its device; it comes back as it was, in training or not, with the
            generation settings that are saved with it.
        seed: of what is drawn; the generators of the process stay as they were.

    Raises:
        InputError: a prompt that the student cannot read.
    """
    drawing = Drawing(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=seed,
    )
    with lent(model, tokenizer, "the student", None) as writer:
        ids = [writer.ids(prompt) for prompt in prompts]
        return [written.text for written in writer.write(ids, drawing)]


def first_words(texts: Sequence[TextSample], tokenizer: Any, number: int) -> list[str]:
    """The beginnings of texts, of each domain in turn, cut where a token ends; of a
    prompt with its completion the prompt.

    Args:
        texts: of any domains, in order.
        tokenizer: whose tokens count: :data:`PROMPT_TOKENS`, or half of a shorter text.
        number: how many at most, none twice.
    """
    by_domain: dict[str, list[TextSample]] = {}
    for sample in texts:
        by_domain.setdefault(sample.domain, []).append(sample)
    in_turn = (s for s in chain(*zip_longest(*by_domain.values())) if s is not None)
    prompts: list[str] = []
    for sample in in_turn:
        if len(prompts) >= number:
            break
        prompt = (
            sample.text.prompt
            if isinstance(sample.text, Prompted)
            else beginning(str(sample.text), tokenizer, PROMPT_TOKENS)
        )
        if prompt.strip() and prompt not in prompts:
            prompts.append(prompt)
    return prompts
