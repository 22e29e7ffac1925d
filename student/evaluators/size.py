"""How large a model is, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from student.evaluators.base import WHOLE, EvalContext, Measured, Metric, Subject

MIB = 2**20
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
"""Files that hold weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Parameters, bytes on disk and in memory; the share saved against each teacher.

    What two modules share counts once. On disk only files of weights count.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "parameters": Metric("", "lower"),
        "memory": Metric("MiB", "lower"),
        "disk": Metric("MiB", "lower"),
        "parameters_saved": Metric("%", "higher"),
        "memory_saved": Metric("%", "higher"),
        "disk_saved": Metric("%", "higher"),
    }
    of_teachers: ClassVar[bool] = False

    def __call__(self, ctx: EvalContext) -> Measured:
        """The saved shares by teacher."""
        sizes, notes = _sizes(ctx.subject), []
        values = {name: {WHOLE: size} for name, size in sizes.items()}
        if "disk" not in sizes:
            notes.append(f"{ctx.subject.name}: no folder with its files is known")
        for teacher in ctx.teachers.values():
            if teacher.name == ctx.subject.name:
                continue
            theirs = _sizes(teacher)
            for name in sizes.keys() & theirs.keys():
                saved = 100 * (1 - sizes[name] / theirs[name])
                values.setdefault(f"{name}_saved", {})[teacher.name] = saved
        return Measured(values, notes)


def _sizes(subject: Subject) -> dict[str, float]:
    tensors = list(tensors_of(subject.model))
    sizes = {
        "parameters": float(sum(p.numel() for p in subject.model.parameters())),
        "memory": sum(x.numel() * x.element_size() for x in tensors) / MIB,
    }
    disk = on_disk(subject)
    return sizes | ({"disk": disk / MIB} if disk else {})


def on_disk(subject: Subject) -> int:
    """Bytes of the files of weights; 0 where there are none."""
    folder = subject.folder
    if folder is None or not folder.is_dir():
        return 0
    for pattern in WEIGHTS:
        if sizes := [path.stat().st_size for path in folder.glob(pattern)]:
            return sum(sizes)
    return 0


def tensors_of(model: object) -> Iterator[Tensor]:
    """Parameters and buffers, each once."""
    yield from model.parameters()  # type: ignore[attr-defined]
    yield from model.buffers()  # type: ignore[attr-defined]
