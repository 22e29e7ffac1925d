"""What became of a hostile input, told from what a command raised or gave."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from align.errors import exit_code_of

CLEAR, ACCEPTED, SILENT, NAMELESS = "clear", "accepted", "silent", "nameless"
LONGEST = 2_000
"""Characters of one line that somebody reads."""


@dataclass
class Table:
    """Outcomes by class of input, and what was wrong."""

    rows: dict[str, Counter] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def note(self, kind: str, outcome: str, detail: str = "") -> None:
        self.rows.setdefault(kind, Counter())[outcome] += 1
        if outcome in (SILENT, NAMELESS):
            self.wrong.append(f"{kind}: {outcome}: {detail}")

    def __str__(self) -> str:
        names = (CLEAR, ACCEPTED, SILENT, NAMELESS)
        lines = [f"{'class':<28}" + "".join(f"{n:>10}" for n in ("tried", *names))]
        total: Counter = Counter()
        for kind, counts in sorted(self.rows.items()):
            lines.append(_line(kind, counts, names))
            total += counts
        return "\n".join([*lines, _line("all", total, names)])


def _line(kind: str, counts: Counter, names: tuple[str, ...]) -> str:
    numbers = (sum(counts.values()), *(counts[name] for name in names))
    return f"{kind:<28}" + "".join(f"{number:>10}" for number in numbers)


def outcome_of(act: Callable[[], bool], places: tuple[str, ...]) -> tuple[str, str]:
    """Do something with a hostile input.

    Args:
        act: raises, or says whether what it took is provably right.
        places: one of which an error names, as the place of what is wrong.
    """
    try:
        right = act()
    except Exception as error:
        said = str(error)
        lines = said.splitlines()
        named = any(place in said for place in places)
        if (
            exit_code_of(error) == 2
            and named
            and len(lines) == 1
            and len(said) < LONGEST
        ):
            return CLEAR, said
        return NAMELESS, f"{type(error).__name__}: {said[:300]!r}"
    return (ACCEPTED, "") if right else (SILENT, "other than was written")
