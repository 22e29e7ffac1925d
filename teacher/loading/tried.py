"""Run by :mod:`teacher.loading.trial` in a process of its own, which may die.

    python tried.py tokenizer FILE SECONDS BYTES
    python tried.py template FILE SECONDS BYTES

It imports nothing of ours, and of others only what reads such a file.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

TEXT = (
    "The sea, 12 words;\n\tsie hätten caf\u0301e 深度学习 \U0001f600 \u200d def f(x): 1"
)
MOST_OUTPUT = 1 << 20
"""Characters that a template may make of a few words."""
MESSAGES = [
    [("user", "a b"), ("assistant", "c d")],
    [("system", "s t"), ("user", "a b"), ("assistant", "c d"), ("user", "e f")],
]


def try_tokenizer(path: str) -> None:
    """Read it and encode a text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.encode(TEXT)
    tokenizer.encode_batch([TEXT, "a"])


def try_template(path: str) -> None:
    """Render some chats as transformers would; what a template refuses is its right."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda text: datetime.now().strftime(text)
    source = Path(path).read_text(encoding="utf-8")
    # Marks of what an assistant says, which jinja2 alone does not know
    source = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)
    for turns in MESSAGES:
        data: dict[str, Any] = {
            "messages": [{"role": role, "content": text} for role, text in turns],
            "bos_token": "<s>",
            "eos_token": "</s>",
            "add_generation_prompt": True,
        }
        try:
            made = 0
            for piece in environment.from_string(source).generate(**data):
                made += len(piece)
                if made > MOST_OUTPUT:
                    sys.exit(f"it makes {made:,} characters or more of {turns}")
        except (MemoryError, RecursionError) as error:
            sys.exit(f"{type(error).__name__} on {turns}")
        except Exception:  # refused where it is used, with the conversation
            continue


def bound(seconds: int, size: int) -> None:
    """Limit this process's time and address space, where the system can."""
    try:
        import resource
    except ImportError:
        return
    limits = (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_CORE, 0),
    )
    for limit, most in limits:
        _, hard = resource.getrlimit(limit)
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (soft, hard))


if __name__ == "__main__":
    bound(int(sys.argv[3]), int(sys.argv[4]))
    {"tokenizer": try_tokenizer, "template": try_template}[sys.argv[1]](sys.argv[2])
