"""How many tokens of a text each teacher reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from align.errors import prefix_errors
from align.text.chat import check_chats
from align.text.documents import TextSample
from align.tokens.cut import Reader, surely_at_most
from experiments.assemble.data import Encoder
from teacher.loading.longer_texts import trained_length
from teacher.teacher_config import TeacherConfig

TEXTS = "texts.json"
"""A run's file with the teachers that limited how long its texts are."""
PLACE = "teachers."
"""What stands before a teacher's name where it is a reader."""
_AT_ONCE = 64


def reads_at_most(
    model: nn.Module, positions: int | None, max_length: int
) -> int | None:
    """Tokens of a text beyond which a teacher would have to be changed for all.

    A text that is denser for the teacher than for the student is cut there. A teacher
    that was trained on shorter texts than the run shall read is extended anyway, to
    ``max_length`` of its own tokens.

    Args:
        model: a teacher.
        positions: of its table of learned positions, None where it has none.
        max_length: the student's tokens of a text.

    Returns:
        None where it reads texts of any length.
    """
    if positions is not None:
        return positions
    trained = trained_length(model)
    return None if trained is None else max(trained, max_length)


def ways_to_read(name: str, entry: TeacherConfig, cuts: bool) -> str:
    """What ``long_texts`` would do for a text that is too long, in words.

    Args:
        name: the teacher's.
        entry: the teacher's settings.
        cuts: whether ``extend`` cuts texts, or else slows the teacher's rotation.
    """
    window = f"{PLACE}{name}.long_texts=window, "
    if entry.long_texts == "extend":
        return window
    does = "cuts such texts shorter" if cuts else "slows its rotation for all texts"
    return f"{PLACE}{name}.long_texts=extend, which {does}, {window}"


def limits_of(readers: Iterable[Reader]) -> dict[str, int]:
    """The limits of teachers by name, as a run keeps them."""
    return {reader.name.removeprefix(PLACE): reader.limit for reader in readers}


class Lengths:
    """The longest text of every teacher, in its own tokens, as texts go by."""

    def __init__(self, teachers: Mapping[str, tuple[Encoder, int | None]]) -> None:
        """Hold the tokenizers.

        Args:
            teachers: by name what reads for it, and how many tokens of a text need
                not be counted; None: none.
        """
        self._encode = {name: encode for name, (encode, _) in teachers.items()}
        self._enough = {name: enough for name, (_, enough) in teachers.items()}
        self.most = {name: (0, "") for name in teachers}
        """Tokens of each teacher's longest text, 0 where none is long enough to be
        counted; and its sample."""
        self.some = ""
        """The first text."""
        self._covers: set[str] = set()
        self._held: dict[str, list[TextSample]] = {name: [] for name in teachers}

    def see(self, sample: TextSample) -> None:
        """Look at a text.

        Raises:
            ValueError: a teacher's chat template refuses it; names both.
        """
        self.some = self.some or sample.text
        for name, encode in self._encode.items():
            with prefix_errors(f"teachers.{name}"):
                check_chats(encode.tokenizer, [sample])
            enough = self._enough[name]
            if name not in self._covers or (
                enough is not None and not surely_at_most(enough, sample.text)
            ):
                self._held[name].append(sample)
                if len(self._held[name]) == _AT_ONCE:
                    self._count(name)

    def holds_text(self, name: str) -> bool:
        """Whether a teacher has a token for any of the texts; ends the counting."""
        self._count(name)
        return name in self._covers

    def _count(self, name: str) -> None:
        held, self._held[name] = self._held[name], []
        if not held:
            return
        batch = self._encode[name]([sample.text for sample in held])
        if bool(batch.has_text.any()):
            self._covers.add(name)
        counts = batch.mask.sum(1)
        row = int(counts.argmax())
        if int(counts[row]) > self.most[name][0]:
            self.most[name] = int(counts[row]), held[row].id
