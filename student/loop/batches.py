"""What a training loop eats: texts, their tokens, and what the teachers say of them.

Most teachers stand still and the order of samples is known, so the next pass is read
in the background while the student learns from this one. Those that move are asked
when its turn has come.
"""

from __future__ import annotations

import functools
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import add
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from align.errors import MachineError
from align.reading import ASKING, Reading
from align.support.stopwatch import Stopwatch, part
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import NonFiniteTeacherError, TeacherView
from fuse.beforehand.asking import Choose, together
from student.evaluate import Encode
from student.loop.data_order import deal, sample_indices
from student.places import Counts, Places


class Views(Protocol):
    """Runs the teachers, live or stored, on one batch."""

    def read(
        self, batch: TokenBatch, chosen: Tensor | None = None
    ) -> Sequence[Reading]:
        """Each teacher's tokens of the student's texts; no teacher runs. ``chosen`` is
        (B, M) bool, who is asked about which text; None: all about all."""

    def __call__(
        self,
        batch: TokenBatch,
        rows: Tensor | None = None,
        readings: Sequence[Reading] | None = None,
        names: Collection[str] | None = None,
    ) -> Sequence[TeacherView]:
        """One view per teacher, in the bridge's order; ``readings`` as read before, and
        ``names`` of those that are asked, if not all."""


T = TypeVar("T")

Survey = Callable[[TokenBatch, Sequence[Reading], Tensor | None], tuple[Places, Counts]]
"""See :meth:`student.distiller.Distiller.survey`."""


Instead = Callable[[int, TextSample], TextSample]
"""See :meth:`student.loop.data_order.Writing.in_place_of`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Order:
    """One forward pass before any teacher has run."""

    samples: Sequence[TextSample]
    batch: TokenBatch
    rows: Tensor | None
    readings: Sequence[Reading]
    places: Places
    counts: Counts
    seconds: Mapping[str, float]
    numbers: Sequence[int]
    """Of its texts in the run."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainBatch:
    """What one forward pass trains on."""

    samples: Sequence[TextSample]
    """This process's texts."""
    batch: TokenBatch
    """The student's tokens, (B, T)."""
    rows: Tensor | None
    """(B, R) int64 query positions, where a term compares some."""
    views: Sequence[TeacherView]
    """One per teacher, but for those that are asked in the step; empty without
    teachers."""
    readings: Sequence[Reading]
    """One per teacher."""
    places: Places
    """Where it is compared."""
    counts: Counts
    """What its places weigh."""
    step: Counts
    """What those of all passes of this process weigh in its optimiser step."""
    problem: NonFiniteTeacherError | None = None
    """A teacher that gave nothing to learn from; then there are no views."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What making it took, by what was done."""
    asking: Mapping[str, float] = field(default_factory=dict)
    """Of that, where texts are chosen for teachers, what each of those took that are
    not asked in the step, see :data:`align.reading.ASKING`."""
    numbers: Sequence[int] = ()
    """Of its texts in the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchMaker:
    """Makes the batch of any pass; a pure function of its number."""

    samples: Sequence[TextSample]
    encode: Encode
    views: Views | None
    seed: int
    rows: int
    """Query positions per sample; 0 for none."""
    batch_size: int
    first_sample: int
    device: torch.device
    rank: int
    world_size: int
    survey: Survey
    instead: Instead | None = None
    """What is read for a text, by its number and what is given; None: what is given."""
    chosen: Callable[[Sequence[int]], Sequence[int]] | None = None
    """See :meth:`student.loop.data_order.Ordering.indices`; None: each in its turn."""
    in_step: Collection[str] = ()
    """Teachers that are asked by :meth:`complete` alone."""
    choose: Choose | None = None
    """Who is asked about which text; None: all about all."""
    dealt: int = 0
    """Passes of a step, over which its texts are dealt by length; 0: as they come."""
    _dealing: dict[int, list[TextSample]] = field(default_factory=dict)
    """Texts of the step that is being dealt, by its first number."""
    _lengths: list[int] = field(default_factory=list)
    """Their tokens."""

    def make(self, number: int) -> TrainBatch:
        """Make one forward pass, counted from 0 within the phase, as a whole step."""
        order = self.order(number)
        return self.complete(self.ask_teachers(order, order.counts))

    def by_step(self, passes: int) -> Callable[[int], TrainBatch]:
        """The same for optimiser steps of several passes, asked for in turn.

        All texts of a step are read before the first of its passes, because every
        pass is divided by what the step weighs; teachers run one pass at a time.

        Args:
            passes: of one step; the first number asked for begins one.
        """
        waiting: list[Order] = []
        total: list[Counts] = []

        def train_batch(number: int) -> TrainBatch:
            if not waiting:
                waiting.extend(map(self.order, range(number, number + passes)))
                total[:] = [functools.reduce(add, (order.counts for order in waiting))]
            return self.ask_teachers(waiting.pop(0), total[0])

        return train_batch

    def order(self, number: int) -> Order:
        """Read one pass's texts, for the student and for every teacher."""
        watch = Stopwatch(self.device)
        with watch.listening():
            with part("data"):
                numbers = self._numbers(number)
                samples = self._given(numbers, self._indices(numbers))
                texts = [sample.text for sample in samples]
                batch = weighed(self.encode(texts), samples).to(self.device)
                rows = (
                    query_rows(batch, self.rows, self.seed, numbers)
                    if self.rows
                    else None
                )
            readings: Sequence[Reading] = ()
            if self.views is not None:
                readings = self.views.read(batch, *self._chosen(samples, numbers))
            with part("align"):
                places, counts = self.survey(batch, readings, rows)
        return Order(
            samples=samples,
            batch=batch,
            rows=rows,
            readings=readings,
            places=places,
            counts=counts,
            seconds=watch.take(),
            numbers=numbers,
        )

    def _indices(self, numbers: Sequence[int]) -> Sequence[int]:
        """Which samples have these numbers of the run."""
        if self.chosen is not None:
            return self.chosen(numbers)
        count = len(self.samples)
        return [sample_indices(count, self.seed, n, 1)[0] for n in numbers]

    def _given(
        self, numbers: Sequence[int], indices: Sequence[int]
    ) -> list[TextSample]:
        """What is read for numbers of the run, which stand for these samples."""
        samples = [self.samples[index] for index in indices]
        if self.instead is None:
            return samples
        return list(map(self.instead, numbers, samples))

    def _numbers(self, number: int) -> Sequence[int]:
        """Which numbers this process reads in a pass."""
        at_once = self.batch_size * self.world_size
        if not self.dealt:
            mine = self.first_sample + number * at_once + self.rank * self.batch_size
            return range(mine, mine + self.batch_size)
        step, place = divmod(number, self.dealt)
        size = self.dealt * at_once
        first = self.first_sample + step * size
        lengths = self._tokens(range(first, first + size))
        runs = deal(lengths, self.dealt, self.world_size, self.batch_size)
        return [first + n for n in runs[place * self.world_size + self.rank]]

    def _tokens(self, numbers: Sequence[int]) -> list[int]:
        """How many tokens the texts of a step have, read once a step."""
        samples = self._given(numbers, self._indices(numbers))
        if samples != self._dealing.get(numbers[0]):
            counts = self.encode([sample.text for sample in samples]).mask.sum(1)
            self._dealing.clear()
            self._dealing[numbers[0]], self._lengths[:] = samples, counts.tolist()
        return self._lengths

    def _chosen(
        self, samples: Sequence[TextSample], numbers: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Who is asked about which of some texts, where that is chosen."""
        if self.choose is None:
            return ()
        return (self.choose(samples, numbers),)

    def ask_teachers(self, order: Order, step: Counts) -> TrainBatch:
        """Ask the teachers, but for those that are asked in the step.

        Args:
            order: of the pass.
            step: what this process's passes of its optimiser step weigh.
        """
        watch = Stopwatch(self.device)
        names = None
        if self.in_step:
            names = {reading.name for reading in order.readings} - {*self.in_step}
        with watch.listening():
            views, problem = self._asked(order, names)
        seconds = watch.take()
        by_teacher = {n: s for n, s in seconds.items() if n.startswith(ASKING)}
        seconds = together(seconds)
        for name, spent in order.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + spent
        return TrainBatch(
            samples=order.samples,
            batch=order.batch,
            rows=order.rows,
            views=views,
            readings=order.readings,
            places=order.places,
            counts=order.counts,
            step=step,
            problem=problem,
            seconds=seconds,
            asking=by_teacher,
            numbers=order.numbers,
        )

    def complete(self, made: TrainBatch) -> TrainBatch:
        """Ask the others, in the step that learns from them."""
        if not self.in_step or made.problem is not None:
            return made
        views, problem = self._asked(made, self.in_step)
        if problem is not None:
            return replace(made, views=(), problem=problem)
        by_name = {view.name: view for view in (*made.views, *views)}
        return replace(made, views=[by_name[reading.name] for reading in made.readings])

    def _asked(
        self, order: Order | TrainBatch, names: Collection[str] | None
    ) -> tuple[Sequence[TeacherView], NonFiniteTeacherError | None]:
        """What teachers say, or why there is nothing to learn from."""
        if self.views is None:
            return (), None
        asked = () if names is None else (names,)
        try:
            return self.views(order.batch, order.rows, order.readings, *asked), None
        except NonFiniteTeacherError as error:
            return (), error  # the other processes must hear of it


def waited(batches: Iterator[T], keep: Callable[[], None]) -> T:
    """The next batch.

    Args:
        batches: from :func:`prefetched`.
        keep: called first where what makes it is gone: a server, or a disk.

    Raises:
        MachineError: what is gone.
    """
    try:
        with part("waiting"):
            return next(batches)
    except MachineError:
        with suppress(OSError):  # a full disk may be what is gone, and says so itself
            keep()
        raise


def weighed(batch: TokenBatch, samples: Sequence[TextSample]) -> TokenBatch:
    """The texts' tokens with what each text counts, where that is not 1 for all.

    Args:
        batch: tokens, (B, T).
        samples: B of them, whose texts these are.
    """
    if any(sample.weight != 1 for sample in samples):
        weight = torch.tensor([sample.weight for sample in samples])
        batch = replace(batch, weight=weight)
    if any(sample.own for sample in samples):
        batch = replace(batch, own=torch.tensor([sample.own for sample in samples]))
    return batch


def query_rows(
    batch: TokenBatch, count: int, seed: int, numbers: Sequence[int]
) -> Tensor:
    """Sample real query positions, (B, R); the same for every arm and resume.

    One draw for each sample by its number in the run, however many share a pass.

    Args:
        batch: the student's tokens, (B, T).
        count: R.
        seed: the run's.
        numbers: B, of the samples.
    """
    generator = torch.Generator()
    drawn = torch.stack(
        [
            torch.rand(count, generator=generator.manual_seed(seed * 7919 + number))
            for number in numbers
        ]
    )
    length = batch.mask.sum(1, keepdim=True).cpu()
    return (drawn * length).long().to(batch.ids.device)


def prefetched(
    read: Callable[[int], T],
    first: int,
    last: int,
    ahead: bool,
    device: torch.device | None = None,
) -> Generator[T, None, None]:
    """Yield the batches ``first`` to ``last - 1`` in order.

    Args:
        read: makes one, by its number.
        first: first batch.
        last: one past the last.
        ahead: make the next one in a background thread meanwhile.
        device: where batches are made.
    """
    if not ahead:
        yield from map(read, range(first, last))
        return
    settings = (torch.get_num_threads(), device)
    with ThreadPoolExecutor(
        1, "teachers", initializer=_settle, initargs=settings
    ) as pool:
        coming: Future[T] | None = None
        for number in range(first, last):
            now = coming or pool.submit(read, number)
            made = now.result()
            coming = pool.submit(read, number + 1) if number + 1 < last else None
            yield made


def _settle(threads: int, device: torch.device | None) -> None:
    """Give a new thread the caller's settings: it starts with PyTorch's own number of
    threads, and on the first GPU, where some kernels of teachers would then run."""
    torch.set_num_threads(threads)
    if device is not None and device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
