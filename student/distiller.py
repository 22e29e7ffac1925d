"""One training step: the student, its teachers' views, and every loss.

Who learns from what is decided here and nowhere else:

- the student: CE, K and V losses to detached targets, attention and relation KL;
- projectors: K and V losses to fixed teacher values;
- adapters, gates, Z modules: the outcome (and Z's own auxiliary losses);
- routers: the outcome, the teachers' own losses, the entropy term;
- a term that is a module: whatever its own value reaches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from align.reading import Reading
from align.schedules import LossRecord, SeenRecord, Timetable, is_on
from align.sizes import Sizes
from align.support.matrices import Layout, layouts
from align.support.stopwatch import part
from align.tokens.batch import TokenBatch
from align.tokens.weights import text_weight
from align.views import (
    Capture,
    Captured,
    Injection,
    LinearHead,
    Output,
    TeacherView,
    with_kv,
)
from fuse.beforehand.choose import text_draws
from fuse.config import SAMPLED
from fuse.signals import KV_FIT, Signals, signals_needed
from fuse.weigher import Weighed, Weigher, prior
from student.attention_sinks import without_sinks
from student.balance import Balance, DomainBalance
from student.config import LossConfig
from student.evaluate import kv_health
from student.layers import layers_read
from student.objective import (
    ATTENTION,
    EMBEDDINGS,
    HEADS,
    KEYS_VALUES,
    RELATIONS,
    STATES,
    FittedObjective,
    StepContext,
    compares,
    count_of,
    needs_of,
    wants_sample,
)
from student.output.across.signals import Sources, signals_of
from student.output.temperature import TEMPERATURES
from student.places import (
    Chosen,
    Counts,
    Places,
    Selected,
    Share,
    availability,
    coverage_of,
    find_places,
    settled,
)
from student.select.candidates import Candidates, Sum
from student.select.selection import Selection
from student.step.context import ContextMaker, introduce, of_kv
from student.step.kv_fit import kv_fit
from student.step.modules import modules_of
from student.step.records import StepResult as StepResult
from student.step.records import Teaching as Teaching
from student.step.records import WeightedObjective as WeightedObjective
from student.step.records import layers_of as layers_of
from student.step.records import sums_of as sums_of
from student.step.routing_losses import routing_losses
from student.step.term_sum import TermSum
from student.step_outputs import OutputPlan
from student.terms.key_value import ce, next_token_losses
from student.terms.signals import pass_sums
from student.trained import frozen

HEALTH_TOKENS = 512
"""Tokens of a batch whose spread is measured."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Read:
    """One pass of the student beside its teachers."""

    captured: Captured
    available: Tensor
    """(B, T, M) bool, which teacher covers which token."""
    soft: Tensor
    """(B, T, M) or (L, B, T, M) float32, carries the router's gradient."""
    routing: Tensor
    """Likewise, those by which teachers count once some were chosen."""
    context: StepContext
    selected: Selected | None
    """By what selectors multiply its places; None where there is none."""
    share: Share | None
    """What is left of the pass, and of its step, for the terms."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Teachers:
    """The teachers of one pass, as the student stands."""

    available: Tensor
    """(B, T, M) bool, which teacher covers which token."""
    clear: Tensor
    """(B, T, M) bool, False on padding and on attention sinks."""
    weighed: Weighed
    """Their weights, with the router's gradient."""
    signals: Signals | None
    """What anybody asks to be told."""

    @property
    def routing(self) -> Tensor:
        """(B, T, M) or (L, B, T, M) float32, detached, by which they count."""
        return self.weighed[1].detach()


class Distiller(nn.Module):
    """The student with all that is trained beside it."""

    def __init__(
        self,
        student: nn.Module,
        capture: Capture,
        objectives: Mapping[str, WeightedObjective],
        config: LossConfig,
        teaching: Teaching | None = None,
        *,
        autocast: torch.dtype | None = None,
        health_every: int = 0,
        output: OutputPlan | None = None,
        head: LinearHead | None = None,
        balance: Balance | None = None,
        timetable: Timetable | None = None,
        domains: Sequence[str] = (),
        selection: Selection | None = None,
    ) -> None:
        """Join the parts.

        Args:
            student: the model that ``capture`` runs.
            capture: see :class:`align.views.Capture`.
            objectives: terms by name; ``ce`` alone needs no teaching.
            config: for the outcome, sinks and sampled rows.
            teaching: None trains without teachers.
            autocast: bfloat16 or float16 for matrix products; None for neither.
            health_every: steps between two measurements of the student's KV under
                teaching; 0 for none.
            output: the student's side of terms that need ``outputs``; None where none
                does.
            head: the student's, where its logits are ``hidden @ weight.T + bias``: then
                none are made but those that a term asks for.
            balance: of these objectives; None weighs them as they say.
            timetable: of the phase, which knows its length and strangers' schedules;
                None: every schedule says its steps and is built in.
            domains: of all texts that are learned from, alike on all processes.
            selection: of the places that are learned from; None: all are.

        Raises:
            InputError: a term needs what nobody can give it, or hides parameters.
        """
        super().__init__()
        self.student = student
        self.bridge = teaching.bridge if teaching else None
        self.weigher = teaching.weigher if teaching else None
        self._regularizer = teaching.regularizer if teaching else None
        self._routing_temperature = teaching.temperature if teaching else None
        self.timetable = timetable or Timetable(rules=TEMPERATURES)
        """What settings are at a step."""
        self._capture, self._objectives = capture, dict(objectives)
        self._config, self._autocast = config, autocast
        self._health_every = health_every
        terms = {name: o.objective for name, o in self._objectives.items()}
        introduce(terms, _sizes_of(capture), teaching.all_sizes if teaching else {})
        self.terms = modules_of(terms)
        """Terms that are modules: what they learn is trained, moved and saved."""
        self.losses = LossRecord(list(terms)) if self.timetable.reads_losses else None
        """What schedules know of the losses so far; None where none goes by them."""
        self.seen = SeenRecord() if self.timetable.signals else None
        """What they know of outputs, likewise."""
        self.timetable.seen = self.seen
        self.timetable.kept = None if self.losses is None else self.losses.kept
        self.balance = balance
        """What weighs the terms; None where the config does alone."""
        by_domain = is_on(config.domain_balance)
        self.domains = (
            DomainBalance(domains, config.domain_signal) if by_domain else None
        )
        """What weighs texts by their domains; None where all count alike."""
        self.selection = selection if teaching else None
        """What selects places; None where all are learned from."""
        self._contexts = ContextMaker(
            needs=needs_of(terms),
            compares=any(compares(term) for term in terms.values()),
            bridge=self.bridge,
            maps=teaching.layer_maps if teaching else {},
            layers=capture.num_layers,
            temperatures=config.temperatures,
            temperature_rise=config.temperature_rise,
            timetable=self.timetable,
            output=output,
            head=head,
            look=self._look_again,
            smoothing=config.smoothing,
            every_domain=domains,
        )
        self._outcome_layers = layers_read(config.outcome_layers, capture.num_layers)
        selecting = self.selection.needs if self.selection else frozenset()
        self.signals = signals_needed(self.weigher) | selecting
        """What anybody asks to be told in every pass, see :mod:`fuse.signals`."""
        sizes = teaching.all_sizes if teaching else {}
        self._costs = {name: each.parameters for name, each in sizes.items()}

    @property
    def _sum(self) -> TermSum:
        return TermSum(
            objectives=self._objectives,
            config=self._config,
            timetable=self.timetable,
            losses=self.losses,
            balance=self.balance,
        )

    @property
    def learns_routing(self) -> bool:
        """Whether the weigher has parameters."""
        return self.weigher is not None and any(
            p.requires_grad for p in self.weigher.parameters()
        )

    def matrix_layouts(self) -> dict[int, Layout]:
        """How the student's trainable matrices lie, by ``id``."""
        return layouts(self.student, self._capture.joined_maps())

    def wants_outcome(self, step: int) -> bool:
        """Whether this optimiser step runs the second, injected pass."""
        every = self._config.outcome_every
        on = is_on(self._config.eta_outcome) and every > 0
        return self.bridge is not None and on and step % every == 0

    def wants_health(self, step: int) -> bool:
        """Whether this optimiser step measures the student's keys and values."""
        every = self._health_every
        return self.weigher is not None and every > 0 and step % every == 0

    @property
    def compared_rows(self) -> int:
        """Query positions per sample at which terms compare attention or relations."""
        compares = self._contexts.needs & {ATTENTION, HEADS, RELATIONS}
        return self._config.attention_rows if compares else 0

    @property
    def fitted(self) -> dict[str, FittedObjective]:
        """Terms that are fitted on a sample before the first step, by name."""
        terms = {name: o.objective for name, o in self._objectives.items()}
        return {name: term for name, term in terms.items() if wants_sample(term)}

    @property
    def exits(self) -> dict[int, Tensor]:
        """Maps to the student's head from lower layers, where a term trains such."""
        every = (
            getattr(weighed.objective, "exits", {})
            for weighed in self._objectives.values()
        )
        return {layer: made for maps in every for layer, made in maps.items()}

    @torch.no_grad()
    def context(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        rows: Tensor | None = None,
    ) -> StepContext:
        """What the terms read of one batch, without gradients; see :meth:`forward`."""
        with self._narrow(batch):
            return self._read(batch, views, rows, step=0, share=None).context

    @torch.no_grad()
    def survey(
        self, batch: TokenBatch, readings: Sequence[Reading], rows: Tensor | None
    ) -> tuple[Places, Counts]:
        """Where a pass compares anything and what that weighs; no model runs.

        Args:
            batch: the student's tokens, (B, T).
            readings: one per teacher, in the bridge's order.
            rows: (B, R) int64 query positions.
        """
        available = availability(batch, readings)
        weight = (
            available.float()
            if self.weigher is None
            else prior(self.weigher, available)
        )
        skipped = self._config.skip_sinks
        places = find_places(
            batch,
            readings,
            rows=rows,
            weight=text_weight(batch, weight),
            skip_sinks=skipped,
            plan=self._contexts.output,
        )
        return places, Counts(places.predicted, self._counts(places))

    @torch.no_grad()
    def choose(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        *,
        step: int,
        share: Share,
        domains: Sequence[str] | None,
        numbers: Sequence[int] | None = None,
    ) -> Places:
        """Have the selectors look at a pass before any of its step is learned from.

        The student reads once more for it, without gradients and without dropout.

        Args:
            batch: the student's tokens, (B, T).
            views: one per teacher.
            step: optimiser steps taken in this phase.
            share: what the batch is of its optimiser step.
            domains: of the texts.
            numbers: of the texts in the run, as in :meth:`forward`.

        Returns:
            The pass's places with what of them is selected, to be settled with those of
            the other passes, see :func:`student.places.settled`.
        """
        assert self.selection is not None
        training = self.training
        self.eval()
        with self._narrow(batch):
            captured = self._look(batch, all_layers=self._reads_kv(step))
            teachers = self._weighed(
                captured,
                batch,
                views,
                step=step,
                share=share,
                domains=domains,
                numbers=numbers,
            )
            selected = self._select(teachers, step, share)
        self.train(training)
        return share.places.learned(selected, teachers.routing)

    def left(self, passes: Sequence[Places], total: Sum) -> Counts:
        """What a selection leaves of a step.

        Args:
            passes: of the step, on this process.
            total: over processes, which must all ask.

        Raises:
            InputError: it has left nothing for many steps.
        """
        assert self.selection is not None
        counts = [Counts(p.predicted, self._counts_of_terms(p)) for p in passes]
        kept = [p.selected.kept for p in passes]
        names = list(kept[0])
        mine = functools.reduce(add, counts)
        sums = [
            math.fsum(each[name][at] for each in kept if each)
            for name in names
            for at in (0, 1)
        ]
        every = total([*mine.flat(), *sums])
        sums = every[len(every) - len(sums) :]
        pairs = zip(sums[::2], sums[1::2], strict=True)
        self.selection.check(dict(zip(names, pairs, strict=True)))
        return mine.refilled(every)

    def _select(self, teachers: _Teachers, step: int, share: Share | None) -> Selected:
        """What is selected of a pass; a pass of training is remembered."""
        assert self.selection is not None
        assert teachers.signals is not None or not self.selection.needs
        candidates = Candidates(
            signals=teachers.signals or Signals(teachers=()),
            known=teachers.available & teachers.clear,
            step=step,
            over_processes=list if share is None else share.over_processes,
            timetable=self.timetable,
        )
        selected = self.selection.weigh(candidates, teachers.routing)
        if share is not None:
            self.selection.note(candidates)
        return selected

    def _learned(
        self, teachers: _Teachers, step: int, share: Share | None
    ) -> Share | None:
        """A share with what is selected of its pass.

        Raises:
            RuntimeError: the step has other passes, and nobody has looked at them.
        """
        if self.selection is None or share is None or share.chosen is not None:
            return share
        places = share.places.learned(
            self._select(teachers, step, share), teachers.routing
        )
        (places,) = settled([places], share.over_processes)
        counts = self.left([places], share.over_processes)
        if counts.predicted != share.step.predicted:
            raise RuntimeError("a selection has to look at all passes of a step first")
        return replace(share, chosen=Chosen(places, counts))

    def _counts_of_terms(self, places: Places) -> dict[str, tuple[float, ...]]:
        return {
            name: tuple(count(places))
            for name, weighted in self._objectives.items()
            if (count := count_of(weighted.objective)) is not None
        }

    def _counts(self, places: Places) -> dict[str, tuple[float, ...]]:
        counts = self._counts_of_terms(places)
        if self.weigher is None:
            return counts
        if self.bridge is not None:
            counts |= self.bridge.auxiliary_counts(places.met)
            counts["outcome"] = (places.labelled,)
        if self.learns_routing:
            known = torch.tensor([r.bits for r in places.readings])
            heard = places.available & known.to(places.available.device)
            counts |= {
                "teacher_loss": (float(heard.any(-1).sum()),),
                "entropy": (float(places.available.any(-1).sum()),),
            }
        return counts

    def forward(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView] = (),
        rows: Tensor | None = None,
        step: int = 0,
        poisoned: bool = False,
        share: Share | None = None,
        domains: Sequence[str] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> StepResult:
        """Compute the loss of one batch.

        Args:
            batch: the student's tokens, (B, T).
            views: one per teacher, in the bridge's order; empty without teaching.
            rows: (B, R) int64 query positions; needed where ``compared_rows``.
            step: optimiser steps taken in this phase.
            poisoned: something of this batch cannot be used: a loss whose gradients
                are NaN, so that all processes leave out the step it belongs to.
            share: what the batch is of its optimiser step, from :meth:`survey` of all
                its passes; None: the batch is all there is.
            domains: of the texts, for a router that is told; None: nobody knows.
            numbers: of the texts in the run, by which teachers are drawn; None: from 0.
        """
        with self._narrow(batch):
            if poisoned:
                captured = self._capture(
                    batch.ids, batch.mask, layers=(0,), logits=True
                )
                assert captured.logits is not None
                return StepResult(loss=captured.logits.float().mean() * torch.nan)
            if self.weigher is None:
                captured = self._look(batch, all_layers=self._reads_kv(step))
                by_text = self._by_text(batch, domains, step)
                context = self._contexts.alone(captured, batch, step, by_text)
                self._note_domains(context, domains, share)
                return self._sum.total(context, {}, share, captured)
            return self._taught(
                batch,
                views,
                rows,
                step=step,
                share=share,
                domains=domains,
                numbers=numbers,
            )

    def _narrow(self, batch: TokenBatch) -> torch.autocast:
        """Matrix products in ``autocast``.

        Without its cache of narrowed weights: all threads share it, and the one that
        reads the next batch empties it as its own pass ends. A weight that is used
        twice would then be narrowed again, or not, and its gradient end otherwise in
        the last bit, from run to run.
        """
        return torch.autocast(
            batch.ids.device.type,
            dtype=self._autocast,
            enabled=self._autocast is not None,
            cache_enabled=False,
        )

    def _taught(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        rows: Tensor | None,
        step: int,
        share: Share | None,
        domains: Sequence[str] | None,
        numbers: Sequence[int] | None,
    ) -> StepResult:
        read = self._read(
            batch,
            views,
            rows,
            step=step,
            share=share,
            domains=domains,
            numbers=numbers,
        )
        routing, available = read.routing, read.available
        with part("fuse"):
            extra = self._of_bridge(read.captured, views, share, step)
            if self.learns_routing:
                extra |= routing_losses(
                    read.soft,
                    available,
                    views,
                    signal=self._config.router_signal,
                    regularizer=self._regularizer,
                    step=step,
                    share=share,
                )
        self._note_domains(read.context, domains, share)
        self._note_outputs(read.context, share)
        if self.wants_outcome(step):
            extra |= self._outcome(batch, views, routing, step, share)
        with part("fuse"):
            result = self._sum.total(read.context, extra, read.share, read.captured)
        readings = [] if share is None else share.places.readings
        return StepResult(
            loss=result.loss,
            terms=result.terms,
            weights=result.weights,
            chosen=result.chosen,
            selected=read.selected,
            routing=routing.detach(),
            soft=read.soft.detach(),
            teachers=tuple(view.name for view in views),
            coverage=coverage_of(batch, available, readings),
            health=kv_health(read.captured.kv, HEALTH_TOKENS)
            if self.wants_health(step)
            else None,
        )

    def _read(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        rows: Tensor | None,
        step: int,
        share: Share | None,
        domains: Sequence[str] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> _Read:
        """Run the student and weigh the teachers."""
        assert self.weigher is not None
        asked = rows if self._contexts.needs & {ATTENTION, HEADS} else None
        captured = self._look(batch, asked, all_layers=self._reads_kv(step))
        with part("fuse"):
            teachers = self._weighed(
                captured,
                batch,
                views,
                step=step,
                share=share,
                domains=domains,
                numbers=numbers,
            )
            share, selected = self._learned(teachers, step, share), None
            if share is not None and share.chosen is not None:
                selected = share.chosen.places.selected
            elif self.selection is not None:
                selected = self._select(teachers, step, None)
            context = self._contexts.taught(
                captured,
                batch,
                views,
                routing=teachers.routing,
                clear=teachers.clear,
                rows=rows,
                step=step,
                share=share,
                domains=domains,
                by_text=self._by_text(batch, domains, step),
                selected=selected,
            )
        soft, routing = teachers.weighed
        return _Read(
            captured=captured,
            available=teachers.available,
            soft=soft,
            routing=routing,
            context=context,
            selected=selected,
            share=share,
        )

    def _weighed(
        self,
        captured: Captured,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        *,
        step: int,
        share: Share | None,
        domains: Sequence[str] | None,
        numbers: Sequence[int] | None,
    ) -> _Teachers:
        """Weigh the teachers of one pass."""
        assert captured.hidden is not None
        if share is None:
            available = availability(batch, views)
            clear = without_sinks(batch, views, self._config.skip_sinks)
        else:
            available, clear = share.places.available, share.places.clear
        self._move_routing_temperature(step)
        signals = self._signals(
            captured,
            batch,
            views,
            available=available,
            domains=domains,
            share=share,
        )
        weighed = self._weigh(
            captured.hidden.detach(), batch, available, signals, numbers
        )
        return _Teachers(
            available=available, clear=clear, weighed=weighed, signals=signals
        )

    def _weigh(
        self,
        hidden: Tensor,
        batch: TokenBatch,
        available: Tensor,
        signals: Signals | None,
        numbers: Sequence[int] | None,
    ) -> Weighed:
        """Weights before and after teachers were chosen."""
        if not isinstance(self.weigher, Weigher):
            assert self.weigher is not None
            given = (signals,) if signals_needed(self.weigher) else ()
            weights = self.weigher(hidden, batch.mask, available, *given)
            return Weighed(weights, weights)
        draws = None
        if self.weigher.choice == SAMPLED:
            texts, tokens = batch.ids.shape
            of_run = range(texts) if numbers is None else numbers
            draws = text_draws(self.timetable.seed, of_run, tokens).to(hidden.device)
        return self.weigher.weigh(hidden, batch.mask, available, signals, draws)

    def _signals(
        self,
        captured: Captured,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        *,
        available: Tensor,
        domains: Sequence[str] | None,
        share: Share | None,
    ) -> Signals | None:
        """What anybody asks for, worked out once a pass."""
        plan, bridge, student = self._contexts.output, self.bridge, None
        if plan is not None and captured.hidden is not None:
            student = Output(batch, captured.hidden, plan.head, plan.vocabulary)
        sources = Sources(
            batch=batch,
            views=views,
            domains=domains,
            student=student,
            vocabulary=None if plan is None else plan.vocabulary,
            pairings=() if share is None else share.places.pairings,
            parameters=self._costs,
            fit=None
            if bridge is None
            else lambda: kv_fit(bridge, captured, views, available),
        )
        return signals_of(self.signals, sources)

    def _by_text(
        self, batch: TokenBatch, domains: Sequence[str] | None, step: int
    ) -> Tensor | None:
        """(B,), by what the domain of each text multiplies what it costs."""
        if self.domains is None or domains is None:
            return None
        setting, place = self._config.domain_balance, "loss.domain_balance"
        alpha = self.timetable.value(setting, place, step)
        weights = self.domains.weights(alpha, step)
        for name, weight in zip(self.domains.names, weights.tolist(), strict=True):
            self.timetable.note(f"{place}[{name}]", weight)
        return self.domains.of_texts(domains, weights).to(batch.ids.device)

    def _note_domains(
        self, ctx: StepContext, domains: Sequence[str] | None, share: Share | None
    ) -> None:
        if self.domains is None or domains is None or not torch.is_grad_enabled():
            return
        losses, counts = next_token_losses(ctx)
        total = list if share is None else share.over_processes
        self.domains.note(losses, counts, domains, step=ctx.step, total=total)

    def _note_outputs(self, ctx: StepContext, share: Share | None) -> None:
        """What schedules go by that look at outputs."""
        if self.seen is None or ctx.outputs is None:
            return
        sums = pass_sums(ctx.outputs, self.timetable.signals)
        total = list if share is None else share.over_processes
        added = total(list(sums.values()))
        self.seen.note_sums(dict(zip(sums, added, strict=True)), ctx.step)

    def _move_routing_temperature(self, step: int) -> None:
        if self._routing_temperature is None:
            return
        assert isinstance(self.weigher, Weigher)
        self.weigher.temperature = self.timetable.value(
            self._routing_temperature, "fuse.temperature", step
        )

    def _look(
        self,
        batch: TokenBatch,
        rows: Tensor | None = None,
        inject: Injection | None = None,
        all_layers: bool = False,
    ) -> Captured:
        captured = self._capture(
            batch.ids,
            batch.mask,
            layers=None if all_layers else (0,),
            logits=self._contexts.head is None,
            hidden=inject is None or self._contexts.head is not None,
            inject=inject,
            attention_rows=rows,
            heads=HEADS in self._contexts.needs,
            states=self._contexts.needs & STATES if inject is None else (),
        )
        if self.balance is None or inject is not None:
            return captured
        return self.balance.part(captured)

    def _look_again(
        self, ids: Tensor, mask: Tensor, change: Callable[[Tensor], Tensor]
    ) -> Captured:
        """The student on the same tokens, with its input embeddings changed."""
        student: Any = self.student
        hook = student.get_input_embeddings().register_forward_hook(
            lambda module, given, embedded: change(embedded)
        )
        try:
            return self._capture(
                ids,
                mask,
                layers=(0,),
                logits=self._contexts.head is None,
                hidden=True,
            )
        finally:
            hook.remove()

    def _reads_kv(self, step: int) -> bool:
        """Whether anything of a step looks at the student's keys and values."""
        bridge = self.bridge
        if bridge is not None and (
            KEYS_VALUES in self._contexts.needs or bridge.learns_from_student
        ):
            return True
        stated = self._contexts.needs & STATES - {EMBEDDINGS}
        read = KV_FIT in self.signals or self.compared_rows > 0 or bool(stated)
        return read or self.wants_health(step)

    def _of_bridge(
        self,
        captured: Captured,
        views: Sequence[TeacherView],
        share: Share | None,
        step: int,
    ) -> dict[str, Tensor]:
        """Losses of the bridge's own modules."""
        if self.bridge is None:
            return {}
        if share is not None:
            share = replace(share, places=share.places.met)
        losses = dict(self.bridge.auxiliary(captured.kv, with_kv(views), share))
        for name, (place, setting) in self.bridge.auxiliary_weights.items():
            if name in losses:
                weight = self.timetable.value(setting, place, step)
                losses[name] = weight * losses[name]
        return losses

    def _outcome(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        routing: Tensor,
        step: int,
        share: Share | None,
    ) -> dict[str, Tensor]:
        """The student's next-token loss while it reads the fused KV.

        The student's own weights stand still in this pass: it must learn to need no
        bridge, not to lean on one.
        """
        assert self.bridge is not None
        if self._config.router_signal == "teacher_loss":
            routing = routing.detach()
        with part("fuse"):
            met = of_kv(routing, views)
            fused = self.bridge.fuse_for_injection(with_kv(views), met)
        if fused is None:
            return {}
        layers = self._outcome_layers
        inject = Injection(
            fused.select_layers(layers),
            layers,
            fused.mask & batch.has_text,
            self.bridge.gates[list(layers)],
        )
        with frozen(self.student):
            captured = self._look(batch, inject=inject)
            totals = None if share is None else share.step.terms["outcome"]
            value = ce(
                StepContext(
                    batch=batch,
                    output=self._contexts.next_token(captured),
                    totals=totals,
                )
            )
        eta = self.timetable.value(self._config.eta_outcome, "loss.eta_outcome", step)
        return {"outcome": eta * value}


def _sizes_of(capture: Capture) -> Sizes:
    return Sizes(
        layers=capture.num_layers,
        heads=capture.num_kv_heads,
        k_dim=capture.k_dim,
        v_dim=capture.v_dim,
        hidden_size=capture.hidden_size,
        query_heads=capture.query_heads,
        embedding_size=capture.embedding_size,
    )
