"""Fit the terms that start from data, on the calibration sample of a phase."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from align.errors import InputError
from align.tokens.batch import TokenBatch
from align.views import TeacherView
from student.distiller import Distiller
from student.objective import StepContext

SampleBatch = tuple[TokenBatch, Tensor | None, Sequence[TeacherView]]
"""The student's tokens (B, T), the query positions (B, R) that a term compares, and
every teacher's view."""


@dataclass(frozen=True, slots=True)
class _Contexts:
    """The sample as a term reads it; each pass runs the student and the teachers."""

    distiller: Distiller
    batches: Callable[[], Iterable[SampleBatch]]

    def __iter__(self) -> Iterator[StepContext]:
        for batch, rows, views in self.batches():
            yield self.distiller.context(batch, views, rows)


def fit_terms(
    distiller: Distiller, sample: Callable[[str], Iterable[SampleBatch]]
) -> None:
    """Call ``fit`` of every term that has one, with the student as it stands.

    It runs before the optimiser takes the parameters, so that a term may make some
    here, and again where a phase goes on from a checkpoint: what the checkpoint holds
    of the term is put back afterwards, into shapes that are there by then.

    Args:
        distiller: on the device it trains on; its terms are fitted in place.
        sample: the phase's calibration sample, under a title for its progress; the
            same on every process.

    Raises:
        InputError: a term holds a value that is not finite once it is fitted.
    """
    distiller.eval()  # train_phase turns dropout on
    distiller.terms.to(next(distiller.student.parameters()).device)
    for name, term in distiller.fitted.items():
        title = f"fitting {name} in"
        term.fit(_Contexts(distiller, partial(sample, title)))
        assert isinstance(term, nn.Module)  # or the distiller had refused it
        for part, value in (*term.named_parameters(), *term.named_buffers()):
            value.grad = None
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise InputError(
                    f"loss.terms.{name}: {part} is not finite after fit(sample); mend "
                    "the term, or raise train.calibration_samples"
                )
