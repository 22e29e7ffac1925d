"""Contracts of the kinds that learn or steer learning: router, objective, phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from align.config import AlignConfig
from align.output import LinearHead, Output
from align.reading import Reading
from align.time_align import Alignment
from fuse.config import FuseConfig
from plugins.contract import Promise, first_problem, problem
from plugins.contract_maps import token_batch
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

_WIDTH, _TEACHERS, _VOCABULARY = 16, 3, 11
_SECTIONS = ("title", "teachers", "align", "fuse", "loss", "output", "train")
_CHECKED: dict[str, type] = {
    "teachers": TeacherRule,
    "align": AlignConfig,
    "fuse": FuseConfig,
    "loss": LossConfig,
    "output": OutputConfig,
    "train": TrainConfig,
}


def router(factory: Callable[[int, int], nn.Module]) -> Iterator[Promise]:
    """A router is tried on texts and tokens, large and low-precision queries."""

    def made(teachers: int = _TEACHERS) -> nn.Module:
        torch.manual_seed(0)
        return factory(_WIDTH, teachers)

    def queries() -> list[Tensor]:
        base = torch.randn(4, 5, _WIDTH, generator=torch.Generator().manual_seed(1))
        return [base, base[:, 0], base * 1e4, base * 0, base.bfloat16()]

    def kind() -> str:
        found = made()
        return problem(not isinstance(found, nn.Module), f"a {type(found).__name__}")

    def shape() -> str:
        module = made()
        for query in queries():
            wanted = (*query.shape[:-1], _TEACHERS)
            got = tuple(module(query).shape)
            if got != wanted:
                return f"{tuple(query.shape)} gives {got}, not {wanted}"
        return ""

    def sums() -> str:
        module = made()
        for query in queries():
            weights = module(query).float()
            if not (weights >= 0).all():
                return "a weight is negative or not a number"
            if ((weights.sum(-1) - 1).abs() > 1e-2).any():
                return f"sums reach {float(weights.sum(-1).max())}"
        return ""

    def single() -> str:
        weights = made(1)(queries()[0])
        return problem(
            ((weights - 1).abs() > 1e-5).any(), "one teacher gets less than 1"
        )

    def alone() -> str:
        module, query = made().eval(), queries()[0]
        apart = torch.stack([module(row) for row in query])
        far = not torch.allclose(module(query), apart, atol=1e-5)
        return problem(far, "a text's weights depend on its batch")

    def learns() -> str:
        module = made()
        parameters = list(module.parameters())
        (module(queries()[0])[..., 0].square().sum()).backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        moved = any(bool((g != 0).any()) for g in gradients)
        finite = all(bool(g.isfinite().all()) for g in gradients)
        return first_problem(
            problem(parameters and not moved, "no parameter has a gradient"),
            problem(not finite, "a gradient is not finite"),
        )

    def saved() -> str:
        module, other = made(), factory(_WIDTH, _TEACHERS)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1)
        other.load_state_dict(module.state_dict())
        query = queries()[0]
        same = torch.allclose(module.eval()(query), other.eval()(query), atol=1e-6)
        return problem(not same, "a restored router answers differently")

    yield Promise("takes hidden_dim and num_teachers and is a module", kind)
    yield Promise("maps (..., C) to (..., M)", shape)
    yield Promise("weights are >= 0 and sum to 1 for any query", sums)
    yield Promise("gives a single teacher everything", single)
    yield Promise("answers each query by itself", alone)
    yield Promise("its weights have a finite gradient to its parameters", learns)
    yield Promise("is saved and restored by its state dict", saved)


def objective(factory: Callable[[], Objective]) -> Iterator[Promise]:
    """An objective is tried on two teachers, one of them half uncovered."""

    def needs() -> str:
        found = getattr(factory(), "needs", None)
        known = {ATTENTION, RELATIONS, OUTPUTS}
        good = isinstance(found, frozenset) and found <= known
        return problem(not good, f"needs is {found!r}; give a frozenset of {known}")

    def scalar() -> str:
        value = factory()(step_context()[0])
        good = isinstance(value, Tensor) and value.shape == () and value.isfinite()
        return problem(not good, f"gives {value!r}")

    def moves() -> str:
        context, student, _ = step_context()
        value = factory()(context)
        if not value.requires_grad:
            return "has no gradient"
        value.backward()
        gradients = [x.grad for x in student if x.grad is not None]
        moved = any(bool((g != 0).any()) for g in gradients)
        finite = all(bool(g.isfinite().all()) for g in gradients)
        return first_problem(
            problem(not moved, "nothing of the student moves"),
            problem(not finite, "a gradient is not finite"),
        )

    def uncovered() -> str:
        value = factory()(step_context(covered=False)[0])
        return problem(not value.isfinite(), f"gives {value.item()} without coverage")

    def without_teachers() -> str:
        value = factory()(step_context(teachers=False)[0])
        return problem(not value.isfinite(), f"gives {value.item()} without teachers")

    def untouched() -> str:
        context, _, targets = step_context()
        before = deepcopy([t.detach() for t in targets])
        factory()(context)
        kept = all(torch.equal(a, b) for a, b in zip(before, targets, strict=True))
        return problem(not kept, "a target was written to")

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
    yield Promise("is finite where nothing is covered", uncovered)
    yield Promise("is finite without teachers", without_teachers)
    yield Promise("leaves its input as it was", untouched)


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
    covered: bool = True, teachers: bool = True
) -> tuple[StepContext, list[Tensor], list[Tensor]]:
    """A step of two texts with two teachers, as training would hand it over.

    Args:
        covered: False leaves every token without teacher text.
        teachers: False gives no comparisons at all.

    Returns:
        The context, the student's tensors (leaves with gradient) and the targets.
    """
    generator = torch.Generator().manual_seed(0)
    batch = token_batch([[(0, 0), (0, 2), (2, 9), (9, 12), (12, 16)], [(0, 0), (0, 2)]])
    size, tokens = batch.ids.shape
    layers, rows = 2, torch.tensor([[1, 2], [1, 1]])
    student: list[Tensor] = []
    targets: list[Tensor] = []

    def new(store: list[Tensor], *shape: int, softmax: bool = False) -> Tensor:
        x = torch.randn(*shape, generator=generator)
        x = x.softmax(-1) if softmax else x
        store.append(x.requires_grad_(store is student))
        return x

    comparisons, attention, relations = [], [], []
    for name, width in (("gpt2", 6), ("qwen", 10)) if teachers else ():
        weight = batch.has_text.float() * (0.5 if covered else 0.0)
        weight[:, 2:] *= name == "gpt2"  # the second covers half of it
        shape = (layers, size, tokens, width)
        comparisons.append(
            Comparison(
                name,
                new(student, *shape),
                new(student, *shape),
                new(targets, *shape),
                new(targets, *shape),
                weight,
            )
        )
        maps = (layers, size, rows.shape[1], tokens)
        attention.append(
            AttentionPair(
                name,
                new(student, *maps, softmax=True),
                new(targets, *maps, softmax=True),
                weight.gather(1, rows),
            )
        )
        own = (layers, size, tokens, 8)
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
    logits = new(student, size, tokens, _VOCABULARY)
    routing = torch.full((size, tokens, 2), 0.5) if teachers else None

    def output(store: list[Tensor], width: int) -> Output:
        head = LinearHead(new(store, _VOCABULARY, width))
        return Output(batch, new(store, size, tokens, width), head, "shared")

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
        batch, logits, comparisons, attention, relations, routing, 0, outputs
    )
    return context, student, targets
