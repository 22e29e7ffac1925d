"""Texts that go on: pieces of a document other than its last."""

from __future__ import annotations

from align.text.conversation import Conversation
from align.text.prompted import Beside, Prompted


class Fragment(str):
    """A piece of a document which was cut behind it, so no text ends here.

    It is a ``str``, so whoever counts, compares or reports characters treats it as any
    text. Its slices are plain strings.
    """


def ends(text: str) -> bool:
    """Whether the end of a text is that of its document or conversation."""
    if isinstance(text, Conversation | Prompted | Beside):
        return not text.goes_on
    return not isinstance(text, Fragment)
