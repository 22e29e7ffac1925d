"""Contracts of the kinds that steer learning: objective, phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from align.config import AlignConfig
from align.output import LinearHead, Output
from align.reading import Reading
from align.time_align import Alignment
from fuse.config import FuseConfig
from plugins.answers import loss_problem
from plugins.contract import Promise, problem
from plugins.contract_aligner import token_batch
from plugins.untouched import Untouched
from student.bridges.features import Features
from student.bridges.projected import LayerwiseLinear, Meeting, Projected
from student.config import LossConfig, TrainConfig
from student.objective import (
    ATTENTION,
    OUTPUTS,
    RELATIONS,
    AttentionPair,
    Comparison,
    Objective,
    Relation,
    StepContext,
    count_of,
)
from student.output import CommonPieces, Lexicon, Vocabulary
from student.output.terms import OutputConfig, OutputPlan, Outputs, Taught
from student.places import Places, find_places
from teacher.teacher_rule import TeacherRule

_VOCABULARY = 11
CALLS = 24
"""How often one objective is asked, since some faults begin late."""
_SECTIONS = ("title", "teachers", "align", "fuse", "loss", "output", "train")
_CHECKED: dict[str, type] = {
    "teachers": TeacherRule,
    "align": AlignConfig,
    "fuse": FuseConfig,
    "loss": LossConfig,
    "output": OutputConfig,
    "train": TrainConfig,
}


def objective(factory: Callable[[], Objective]) -> Iterator[Promise]:
    """An objective is tried on two teachers, one of them half uncovered, with targets
    that are there and with targets that are made when they are asked for."""

    def declared(context: StepContext, needs: frozenset[str]) -> StepContext:
        """The context as a run fills it for this objective alone."""
        return replace(
            context,
            attention=context.attention if ATTENTION in needs else (),
            relations=context.relations if RELATIONS in needs else (),
            outputs=context.outputs if OUTPUTS in needs else None,
        )

    def made() -> tuple[Objective, frozenset[str]]:
        before = Untouched({})
        found = factory()
        changed = before.problem()
        if changed:
            raise RuntimeError(changed)
        return found, frozenset(getattr(found, "needs", ()))

    def needs() -> str:
        found = getattr(factory(), "needs", None)
        known = {ATTENTION, RELATIONS, OUTPUTS}
        good = isinstance(found, frozenset) and found <= known
        return problem(not good, f"needs is {found!r}; give a frozenset of {known}")

    def scalar() -> str:
        for lazy in (False, True):
            term, said = made()
            value = term(declared(step_context(lazy=lazy)[0], said))
            wrong = loss_problem(value) or problem(not value.isfinite(), f"is {value}")
            if wrong:
                return wrong
        return ""

    def moves() -> str:
        for lazy in (False, True):
            term, said = made()
            context, student, _ = step_context(lazy=lazy)
            value = term(declared(context, said))
            if not value.requires_grad:
                return "has no gradient"
            early = [x for x in student if x.grad is not None]
            if early:
                return "runs a backward pass of its own"
            value.backward()
            gradients = [x.grad for x in student if x.grad is not None]
            if not any(bool((g != 0).any()) for g in gradients):
                return "nothing of the student moves"
            if not all(bool(g.isfinite().all()) for g in gradients):
                return "a gradient is not finite"
        return ""

    def says_all() -> str:
        term, said = made()
        context = step_context()[0]
        whole, part = term(context), term(declared(context, said))
        same = torch.allclose(whole, part, equal_nan=True)
        return problem(
            not same,
            f"gives {float(whole.detach()):.4g} with everything and "
            f"{float(part.detach()):.4g} with what it says it needs, {sorted(said)}",
        )

    def uncovered() -> str:
        value = factory()(step_context(covered=False)[0])
        return problem(not value.isfinite(), f"gives {value.item()} without coverage")

    def without_teachers() -> str:
        value = factory()(step_context(teachers=False)[0])
        return problem(not value.isfinite(), f"gives {value.item()} without teachers")

    def untouched() -> str:
        context, _, targets = step_context()
        before = Untouched((context, targets), whole=True)
        factory()(context)
        changed = before.problem()
        return changed.replace("0.", "", 1).replace("1.", "target ", 1)

    def often() -> str:
        term, said = made()
        contexts = [
            declared(step_context(size=size, step=step)[0], said)
            for step, size in enumerate((None, 20, 120))
        ]
        for call in range(CALLS):
            context = contexts[2 if call == CALLS // 2 else call % 2]
            before = Untouched(context)
            value = term(context)
            wrong = loss_problem(value) or before.problem()
            if not wrong and not value.isfinite():
                wrong = f"returns {float(value.detach())}"
            if not wrong and value.grad_fn is None:
                wrong = "returns a value without a gradient"
            if wrong:
                tokens = context.batch.ids.shape[1]
                return f"{wrong} (call {call + 1}, {tokens} tokens)"
        return ""

    def counted() -> str:
        made = factory()
        count = count_of(made)
        if count is None:
            return ""
        context = step_context()[0]
        counts = tuple(count(step_places(context)))
        if not counts or not all(0 <= x < math.inf for x in counts):
            return f"count gives {counts}; give numbers >= 0"
        once, twice = (
            float(made(replace(context, totals=tuple(n * x for x in counts))).detach())
            for n in (1, 2)
        )
        far = abs(once - 2 * twice) > 1e-4 * abs(once) + 1e-6
        return problem(
            far, f"gives {once}, and {twice} where the step's counts are twice as large"
        )

    yield Promise("says what it needs", needs)
    yield Promise("divides by the step's counts, if it counts", counted)
    yield Promise("is a finite scalar", scalar)
    yield Promise("moves the student", moves)
    yield Promise("reads only what it says it needs", says_all)
    yield Promise("is finite where nothing is covered", uncovered)
    yield Promise("is finite without teachers", without_teachers)
    yield Promise("leaves its input as it was", untouched)
    yield Promise("keeps all this call after call", often)


def phase(mapping: Mapping[str, Any]) -> Iterator[Promise]:
    """A phase is read like a config; names in it are checked when it runs."""

    def sections() -> str:
        unknown = [key for key in mapping if key not in _SECTIONS]
        return problem(unknown, f"has {unknown}; sections are {', '.join(_SECTIONS)}")

    def subsets() -> str:
        parts = {k: v for k, v in mapping.items() if k != "title"}
        if isinstance(parts.get("teachers"), list):  # short for their names
            del parts["teachers"]
        bad = [k for k, v in parts.items() if not isinstance(v, Mapping)]
        return problem(bad, f"sections {bad} are not mappings")

    def values() -> str:
        for section, config in _CHECKED.items():
            given = mapping.get(section, {})
            if isinstance(given, list):
                given = {"names": given}
            known = {field.name for field in fields(config)}
            unknown = sorted(given.keys() - known)
            if unknown:
                return f"{section} has no setting {unknown[0]!r}"
            config(**given)
        return ""

    yield Promise("has known sections only", sections)
    yield Promise("each section is a mapping", subsets)
    yield Promise("its settings exist and are in range", values)


def step_places(context: StepContext) -> Places:
    """Where the context's texts are compared, as known before the student reads."""
    batch = context.batch
    rows = batch.has_text.flatten().nonzero()[:, 0]
    size, tokens = batch.ids.shape
    alignment = Alignment(rows, rows, torch.ones(len(rows)), (size, tokens, tokens))
    readings = [
        Reading(
            c.name,
            batch,
            batch,
            alignment,
            alignment,
            batch.mask,
            attention=True,
            vocabulary="shared",
        )
        for c in context.comparisons
    ]
    weight = torch.stack([c.weight for c in context.comparisons], -1)
    outputs = context.outputs
    assert outputs is not None
    head, config = outputs.student.head, outputs.config
    plan = OutputPlan(head, "shared", config, lexicons=outputs.lexicons)
    asked = context.relations[0].rows
    return find_places(batch, readings, asked, weight, 0, plan)


def step_context(
    covered: bool = True,
    teachers: bool = True,
    lazy: bool = False,
    size: int | None = None,
    step: int = 0,
) -> tuple[StepContext, list[Tensor], list[Tensor]]:
    """A step of two texts with two teachers, as training would hand it over.

    Args:
        covered: False leaves every token without teacher text.
        teachers: False gives no comparisons at all.
        lazy: comparisons make predictions and targets when they are asked for, as in
            the teachers' own space.
        size: tokens of the longer text; None: six.
        step: of the phase.

    Returns:
        The context, the student's tensors (leaves with gradient) and the targets.
    """
    generator = torch.Generator().manual_seed(0)
    first = [(0, 0), (0, 2), (2, 9), (9, 12), (12, 16)]
    if size is not None:
        first = [(0, 0), *((i, i + 1) for i in range(size))]
    texts = ("unbelievable tea" if size is None else "x" * size, "tea")
    batch = token_batch([first, [(0, 0), (0, 2)]], texts)
    batch = replace(batch, ids=batch.ids % _VOCABULARY)
    count, tokens = batch.ids.shape
    layers, rows = 2, torch.tensor([[1, 2], [1, 1]])
    student: list[Tensor] = []
    targets: list[Tensor] = []

    def new(store: list[Tensor], *shape: int, softmax: bool = False) -> Tensor:
        x = torch.randn(*shape, generator=generator)
        x = x.softmax(-1) if softmax else x
        store.append(x.requires_grad_(store is student))
        return x

    comparisons: list[Any] = []
    attention, relations = [], []
    for name, width in (("gpt2", 6), ("qwen", 10)) if teachers else ():
        weight = batch.has_text.float() * (0.5 if covered else 0.0)
        weight[:, 2:] *= name == "gpt2"  # the second covers half of it
        shape = (layers, count, tokens, width)
        if not lazy:
            pairs = (student, student, targets, targets)
            k, v, target_k, target_v = (new(store, *shape) for store in pairs)
            comparisons.append(Comparison(name, k, v, target_k, target_v, weight))
        maps = (layers, count, rows.shape[1], tokens)
        attention.append(
            AttentionPair(
                name,
                new(student, *maps, softmax=True),
                new(targets, *maps, softmax=True),
                weight.gather(1, rows),
            )
        )
        own = (layers, count, tokens, 8)
        relations.append(
            Relation(
                name,
                new(student, *own),
                new(student, *own),
                new(targets, *shape),
                new(targets, *shape),
                weight,
                rows,
            )
        )
    if lazy:
        comparisons = _lazily(relations, new, student)
    logits = new(student, count, tokens, _VOCABULARY)
    routing = torch.full((count, tokens, 2), 0.5) if teachers else None

    def output(store: list[Tensor], width: int) -> Output:
        head = LinearHead(new(store, _VOCABULARY, width))
        return Output(batch, new(store, count, tokens, width), head, "shared")

    spelled = Vocabulary(torch.eye(_VOCABULARY), torch.arange(_VOCABULARY) < 2)
    every = torch.arange(_VOCABULARY)
    lexicon = Lexicon(spelled, spelled, CommonPieces(every, every, _VOCABULARY))
    outputs = Outputs(
        output(student, 8),
        [Taught(c.name, output(targets, 6), c.weight) for c in comparisons],
        OutputConfig(),
        lexicons={c.name: lexicon for c in comparisons},
    )
    context = StepContext(
        batch, logits, comparisons, attention, relations, routing, step, outputs
    )
    return context, student, targets


def _lazily(
    relations: list[Relation], new: Callable[..., Tensor], student: list[Tensor]
) -> list[Any]:
    """Comparisons of the same targets in the teachers' own space."""
    if not relations:
        return []
    places = relations[0].weight.numel()
    meetings = []
    for side in ("k", "v"):
        targets = [getattr(relation, f"teacher_{side}") for relation in relations]
        z = new(student, *getattr(relations[0], f"student_{side}").shape)
        projectors = []
        for target in targets:
            project = LayerwiseLinear(len(z), z.shape[-1], target.shape[-1])
            torch.nn.init.normal_(project.weight, generator=_chance())
            projectors.append(project)
        features = [
            Features(tuple(x.flatten(1, 2)), torch.arange(places), x.shape[1:3])
            for x in targets
        ]
        meetings.append(Meeting(z, projectors, features))
    keys, values = meetings
    return [
        Projected.of(relation.name, place, keys, values, relation.weight)
        for place, relation in enumerate(relations)
    ]


def _chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)
