"""Small steps of training, on which objectives are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.reading import Reading
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from align.views import (
    EMBEDDINGS,
    HIDDEN,
    NORMED,
    RESIDUAL,
    STATES,
    LinearHead,
    Output,
)
from plugins.contracts.aligner import token_batch
from student.bridges.features import Features
from student.bridges.projected import LayerwiseLinear, Projected, project
from student.objective import (
    AttentionPair,
    Comparison,
    HeadAttention,
    HiddenOutput,
    LastStates,
    Relation,
    Reread,
    Sides,
    StepContext,
)
from student.output import CommonPieces, Lexicon, Vocabulary
from student.output_config import OutputConfig
from student.places import Places, find_places
from student.step_outputs import OutputPlan, Outputs, Taught

_VOCABULARY = 11


def step_places(context: StepContext) -> Places:
    """Where the context's texts are compared, as known before the student reads."""
    batch = context.batch
    rows = batch.has_text.flatten().nonzero()[:, 0]
    size, tokens = batch.ids.shape
    alignment = Alignment(rows, rows, torch.ones(len(rows)), (size, tokens, tokens))
    readings = [
        Reading(
            name=c.name,
            student=batch,
            tokens=batch,
            alignment=alignment,
            causal=alignment,
            mask=batch.mask,
            attention=True,
            heads=True,
            states=STATES,
            vocabulary="shared",
        )
        for c in context.comparisons
    ]
    weight = torch.stack([c.weight for c in context.comparisons], -1)
    outputs = context.outputs
    assert outputs is not None
    head, config = outputs.student.matrix, outputs.config
    plan = OutputPlan(head, "shared", config, lexicons=outputs.lexicons)
    asked = context.relations[0].rows
    return find_places(
        batch, readings, rows=asked, weight=weight, skip_sinks=0, plan=plan
    )


def step_context(
    covered: bool = True,
    teachers: bool = True,
    projected: bool = False,
    size: int | None = None,
    step: int = 0,
    grad: bool = True,
) -> tuple[StepContext, list[Tensor], list[Tensor]]:
    """A step of two texts with two teachers, as training would hand it over.

    Args:
        covered: False leaves every token without teacher text.
        teachers: False gives no comparisons at all.
        projected: comparisons are in the teachers' own space, where they hold no
            predictions and targets but make them.
        size: tokens of the longer text; None: six.
        step: of the phase.
        grad: False gives the student no gradient, as before the first step.

    Returns:
        The context, the student's tensors (leaves with gradient) and the targets.
    """
    generator = torch.Generator().manual_seed(0)
    batch = _two_texts(size)
    count, tokens = batch.ids.shape
    layers, rows = 2, torch.tensor([[1, 2], [1, 1]])
    student: list[Tensor] = []
    targets: list[Tensor] = []

    def new(store: list[Tensor], *shape: int, softmax: bool = False) -> Tensor:
        x = torch.randn(*shape, generator=generator)
        x = x.softmax(-1) if softmax else x
        store.append(x.requires_grad_(grad and store is student))
        return x

    comparisons: list[Any] = []
    attention, relations = [], []
    for name, width in (("gpt2", 6), ("qwen", 10)) if teachers else ():
        weight = batch.has_text.float() * (0.5 if covered else 0.0)
        weight[:, 2:] *= name == "gpt2"  # the second covers half of it
        shape = (layers, count, tokens, width)
        if not projected:
            stores = {"pred_k": student, "pred_v": student}
            stores |= {"target_k": targets, "target_v": targets}
            sides: Any = {side: new(store, *shape) for side, store in stores.items()}
            comparisons.append(Comparison(name=name, weight=weight, **sides))
        maps = (layers, count, rows.shape[1], tokens)
        attention.append(
            AttentionPair(
                name,
                new(student, *maps, softmax=True),
                new(targets, *maps, softmax=True),
                weight.gather(1, rows),
            )
        )
        student_shape = (layers, count, tokens, 8)
        relations.append(
            Relation(
                name=name,
                student_k=new(student, *student_shape),
                student_v=new(student, *student_shape),
                teacher_k=new(targets, *shape),
                teacher_v=new(targets, *shape),
                weight=weight,
                rows=rows,
            )
        )
    if projected:
        comparisons = _projected(relations, new, student)
    routing = torch.full((count, tokens, 2), 0.5) if teachers else None

    def output(store: list[Tensor], width: int) -> Output:
        head = LinearHead(new(store, _VOCABULARY, width))
        return Output(batch, new(store, count, tokens, width), head, "shared")

    outputs = _outputs(
        output(student, 8),
        [Taught(c.name, output(targets, 6), c.weight) for c in comparisons],
    )
    context = StepContext(
        batch=batch,
        output=HiddenOutput(outputs.student.hidden, outputs.student.matrix),
        comparisons=comparisons,
        attention=attention,
        relations=relations,
        routing=routing,
        step=step,
        outputs=outputs,
        inside=_inside(new, student, targets, relations),
        heads=_heads(new, student, targets, attention, rows),
        own=_own(new, student, count, tokens),
        reread=_reread(new(student, count, tokens, 8)),
    )
    return context, student, targets


def _own(
    new: Callable[..., Tensor], student: list[Tensor], count: int, tokens: int
) -> dict[str, Tensor]:
    """The student's own states, two layers of them."""
    layers = {state: 1 if state == EMBEDDINGS else 2 for state in sorted(STATES)}
    return {s: new(student, n, count, tokens, 8) for s, n in layers.items()}


def _reread(embedded: Tensor) -> Reread:
    """A student of two matrices, whose input embeddings these are."""
    draw = _chance()
    inner, outer = (torch.randn(8, n, generator=draw) for n in (8, _VOCABULARY))

    def read(change: Callable[[Tensor], Tensor], mask: Tensor) -> LastStates:
        hidden = ((change(embedded) * mask[..., None]) @ inner).tanh()
        return LastStates(hidden, hidden @ outer)

    return Reread((embedded @ inner).tanh(), read)


def _inside(
    new: Callable[..., Tensor],
    student: list[Tensor],
    targets: list[Tensor],
    relations: list[Relation],
) -> dict[str, list[Sides]]:
    """What lies between layers, covered where relations are."""

    def sides(state: str) -> list[Sides]:
        layers = slice(1) if state == EMBEDDINGS else slice(None)
        stated = new(student, *relations[0].student_k[layers].shape)
        return [
            Sides(
                name=relation.name,
                student=stated,
                teacher=new(targets, *relation.teacher_k[layers].shape),
                weight=relation.weight,
            )
            for relation in relations
        ]

    if not relations:
        return {}
    return {state: sides(state) for state in (HIDDEN, RESIDUAL, NORMED, EMBEDDINGS)}


def _heads(
    new: Callable[..., Tensor],
    student: list[Tensor],
    targets: list[Tensor],
    pairs: list[AttentionPair],
    rows: Tensor,
) -> list[HeadAttention]:
    """Four heads beside three and five, at the rows of their means."""
    if not pairs:
        return []
    layers, *maps = pairs[0].student.shape
    attended = new(student, layers, 4, *maps, softmax=True)
    return [
        HeadAttention(
            name=pair.name,
            student=attended,
            teacher=new(targets, layers, heads, *maps, softmax=True),
            weight=pair.weight,
            rows=rows,
        )
        for pair, heads in zip(pairs, (3, 5), strict=True)
    ]


def _two_texts(size: int | None) -> TokenBatch:
    spans = [(0, 0), (0, 2), (2, 9), (9, 12), (12, 16)]
    if size is not None:
        spans = [(0, 0), *((i, i + 1) for i in range(size))]
    texts = ("unbelievable tea" if size is None else "x" * size, "tea")
    batch = token_batch([spans, [(0, 0), (0, 2)]], texts)
    return replace(batch, ids=batch.ids % _VOCABULARY)


def _outputs(student: Output, teachers: list[Taught]) -> Outputs:
    """Outputs over one vocabulary, every entry of which is spelt its own way."""
    vocabulary = Vocabulary(torch.eye(_VOCABULARY), torch.arange(_VOCABULARY) < 2)
    ids = torch.arange(_VOCABULARY)
    lexicon = Lexicon(vocabulary, vocabulary, CommonPieces(ids, ids, _VOCABULARY))
    return Outputs(
        student=student,
        teachers=teachers,
        config=OutputConfig(),
        lexicons={taught.name: lexicon for taught in teachers},
    )


def one_text(rows: int) -> StepContext:
    """One text's keys and values, in a batch of so many rows, the others padding.

    Args:
        rows: 1 or 2.
    """
    context = step_context()[0]
    batch = context.batch
    real = (torch.arange(rows) < 1)[:, None]
    assert isinstance(context.output, HiddenOutput)
    texts = TokenBatch(
        batch.ids[:rows],
        batch.mask[:rows] & real,
        batch.spans[:rows] * real[..., None],
        (batch.texts[0], "")[:rows],
    )
    comparisons = [
        Comparison(
            name=c.name,
            pred_k=c.pred_k[:, :rows],
            pred_v=c.pred_v[:, :rows],
            target_k=c.target_k[:, :rows],
            target_v=c.target_v[:, :rows],
            weight=c.weight[:rows] * real,
        )
        for c in context.comparisons
    ]
    routing = None if context.routing is None else context.routing[:rows]
    return StepContext(
        batch=texts,
        output=replace(context.output, hidden=context.output.hidden[:rows]),
        comparisons=comparisons,
        routing=routing,
        reread=_reread(context.own[EMBEDDINGS][0, :rows]),
    )


def _projected(
    relations: list[Relation], new: Callable[..., Tensor], student: list[Tensor]
) -> list[Any]:
    """Comparisons of the same targets in the teachers' own space."""
    if not relations:
        return []
    places = relations[0].weight.numel()
    sides = []
    for side in ("k", "v"):
        targets = [getattr(relation, f"teacher_{side}") for relation in relations]
        z = new(student, *getattr(relations[0], f"student_{side}").shape)
        projectors = []
        for target in targets:
            projector = LayerwiseLinear(len(z), z.shape[-1], target.shape[-1])
            torch.nn.init.normal_(projector.weight, generator=_chance())
            projectors.append(projector)
        features = [
            Features(tuple(x.flatten(1, 2)), torch.arange(places), x.shape[1:3])
            for x in targets
        ]
        sides.append(project(z, projectors, features))
    return [
        Projected(name=relation.name, k=k, v=v, weight=relation.weight)
        for relation, k, v in zip(relations, *sides, strict=True)
    ]


def _chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)
