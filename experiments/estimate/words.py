"""An estimate, and how it is told: as tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from experiments.estimate.training import TrainingNeeds, advice
from experiments.record.course import duration


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreNeeds:
    """What extracting one store needs."""

    name: str
    tokens: int
    """Stored tokens in all."""
    bytes_per_token: float
    disk: int
    """Bytes of the data files."""
    seconds: float
    """On this machine, by the probe."""
    tokens_per_second: float

    @property
    def break_even(self) -> float:
        """Bytes per second from which on reading beats computing again."""
        return self.bytes_per_token * self.tokens_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """All of it; sizes in bytes."""

    samples: int
    stores: list[StoreNeeds]
    free: int
    """On the disk of the stores."""
    memory: dict[str, int]
    """Of one training process, by what it is for."""
    device_memory: int
    """What the device has."""
    products: str
    """Type of matrix products in training; this machine's where it is asked."""
    training: TrainingNeeds
    """Arms, hours and disk of the run."""
    transformed: Sequence[str] = ()
    """A sentence on each transform of each phase."""
    warnings: list[str] = field(default_factory=list)

    @property
    def disk(self) -> int:
        """Of all stores."""
        return sum(store.disk for store in self.stores)

    def plain(self) -> dict[str, Any]:
        """For other programs."""
        out = asdict(self)
        for row, store in zip(out["stores"], self.stores, strict=True):
            row["break_even"] = store.break_even
        return out | {
            "disk": self.disk,
            "memory_in_all": sum(self.memory.values()),
            "training": self.training.plain(),
        }


def gib(size: float) -> str:
    """A size in words."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size / 1024:,.1f} KiB"


def rows_of(needs: Estimate) -> Mapping[str, list[list[str]]]:
    """The tables to print: arms, stores and memory."""
    stores = [
        [
            s.name,
            f"{s.tokens:,}",
            f"{s.bytes_per_token:,.0f}",
            gib(s.disk),
            f"{s.seconds / 3600:,.2f}",
            f"{gib(s.break_even)}/s",
        ]
        for s in needs.stores
    ]
    memory = memory_rows(needs.memory)
    return {"arms": arm_rows(needs.training), "stores": stores, "memory": memory}


def memory_rows(memory: Mapping[str, int]) -> list[list[str]]:
    """What takes memory and how much, with the sum."""
    rows = [[what, gib(size)] for what, size in memory.items()]
    return [*rows, ["in all", gib(sum(memory.values()))]]


def arm_rows(run: TrainingNeeds) -> list[list[str]]:
    """Arm, phases, steps, seconds a step, time."""
    return [
        [
            arm.arm,
            str(arm.phases),
            f"{arm.steps:,}",
            f"{arm.seconds / max(arm.steps, 1):,.2f}",
            duration(arm.seconds),
        ]
        for arm in run.arms
    ]


def said_of(run: TrainingNeeds) -> list[str]:
    """What a reader should know beside the table of arms."""
    again = [f"{arm} is {same}" for arm, same in run.repeated.items()]
    return [
        f"in all {duration(run.seconds)} for the steps; calibration, measurements and "
        "waiting come on top",
        *([f"not trained again: {', '.join(again)}"] if again else []),
        *filter(None, [advice(run), _of_answers(run), _of_steps(run)]),
        *_of_choice(run),
        *_of_scoring(run),
        *run.notes,
        f"disk of the run: {run.students} students {gib(run.exports)}, checkpoints "
        f"while it trains {gib(run.checkpoints)}, answers of teachers meanwhile "
        f"{gib(run.answers.disk)}, in all {gib(run.disk)} of "
        f"{gib(run.free)} free",
    ]


def _of_answers(run: TrainingNeeds) -> str:
    """A sentence on what is kept for arms that read the same texts; or nothing."""
    answers = run.answers
    if not answers.share:
        return ""
    rest = (
        f"; {1 - answers.share:.0%} have no room and are asked again "
        "(answers.memory_gib, answers.disk_gib)"
        if answers.share < 1
        else ""
    )
    return (
        "what teachers say is kept for the arms that read the same texts: "
        f"{gib(answers.memory)} of memory, {gib(answers.disk)} on disk{rest}"
    )


def _of_choice(run: TrainingNeeds) -> Iterator[str]:
    """Sentences on teachers that rest."""
    for phase, asked in run.asked.items():
        shares = ", ".join(f"{name} {share:.0%}" for name, share in asked.items())
        yield f"phase {phase}: of the texts a teacher is asked about: {shares}"
    if run.asked:
        yield (
            "teachers that are not chosen (fuse.choice) rest, which spares "
            f"{duration(run.resting)} of all arms; held-out text and calibration ask "
            "all of them"
        )


def _of_scoring(run: TrainingNeeds) -> Iterator[str]:
    """A sentence on what is measured of texts before they are learned from."""
    if run.scoring:
        yield (
            f"scoring the texts takes {duration(run.scoring)} of main's time, at the "
            "most (data.curriculum, or a router by difficulty)"
        )


def _of_steps(run: TrainingNeeds) -> str:
    """A sentence on what goes on beside the student's own step; or nothing."""
    parts = [f"the peer {name!r} {took:,.2f} s" for name, took in run.peers.items()]
    if run.writing:
        parts.append(f"writing {run.writing:,.2f} s")
    return f"of a step, where teachers teach: {', '.join(parts)}" if parts else ""
