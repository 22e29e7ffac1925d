"""The built-in terms on the next token, on keys and values, and on attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from align.errors import InputError
from align.products.autocast import without_autocast
from align.schedules import Setting, is_on
from align.support.stopwatch import part
from align.tokens.weights import label_weight
from student.config import ChosenTerm, LossConfig
from student.objective import (
    ATTENTION,
    RELATIONS,
    Compared,
    HiddenOutput,
    Objective,
    Relation,
    StepContext,
    Term,
    at_rows,
)
from student.output import Labels, linear_divergence, linear_log_likelihood
from student.output.divergence.linear import BLOCK, LOGITS
from student.output_config import OutputConfig
from student.places import Places
from student.terms.next_token import OUTPUT_BUILT_IN
from student.terms.options import FeatureOptions, NextTokenOptions, with_options

NEXT_TOKEN = "ce"
"""The kind that asks no teacher: alone without them, and never faded."""


def kv_k(ctx: StepContext) -> Tensor:
    """Mean squared distance of keys, per channel, in units of the target's variance.

    Source:
        Squared error on content keys standardised per teacher, layer and channel;
        averaged over layers, channels and, by routing weight, over tokens.
    """
    return _distance(ctx, lambda c: c.distance("k"))


def kv_v(ctx: StepContext) -> Tensor:
    """:func:`kv_k` for values."""
    return _distance(ctx, lambda c: c.distance("v"))


def cosine(ctx: StepContext) -> Tensor:
    """1 - cosine between prediction and target, the mean of keys and values."""
    return _distance(
        ctx,
        lambda c: 1 - (c.cosine("k") + c.cosine("v")) / 2,
    )


def attention_kl(ctx: StepContext) -> Tensor:
    """KL(teacher || student) of head-averaged attention at sampled queries, nats.

    At a temperature, of both to the power of 1 / T and renormalised, times T squared.

    Source:
        TinyBERT and MiniLM compare attention head by head; heads have no order
        between models, so their mean is compared here.
    """
    total, weight = ctx.zero(), ctx.zero()
    for pair in ctx.attention:
        target, log_pred = pair.teacher, pair.student.clamp_min(1e-9).log()
        if ctx.temperature is not None:
            temperature = ctx.temperature[:, None, None, None]
            # tokens without attention stay without
            target = target.pow(1 / temperature)
            target = target / target.sum(-1, keepdim=True).clamp_min(1e-9)
            log_pred = (log_pred / temperature).log_softmax(-1)
        kl = _kl(target, log_pred) * _squared_temperature(ctx)  # (L, B, R)
        total = total + (kl * pair.weight).sum() / len(kl)
        weight = weight + pair.weight.expand_as(kl).sum() / len(kl)
    return total / ctx.total(0, weight)


def relation_k(ctx: StepContext) -> Tensor:
    """KL between the teachers' and the student's K-K relations, nats times T squared.

    Source:
        Wang et al. 2021, MiniLMv2 (arXiv 2012.15828), eq. 2-4: row softmax of
        scaled dot products between tokens. Departures: all heads in one, features
        standardised, and a token's relation to itself left out, which would
        otherwise take nearly all of the mass.
    """
    return _relations(ctx, lambda r: (r.student_k, r.teacher_k))


def relation_v(ctx: StepContext) -> Tensor:
    """:func:`relation_k` for values."""
    return _relations(ctx, lambda r: (r.student_v, r.teacher_v))


def ce(ctx: StepContext) -> Tensor:
    """Next-token cross-entropy over real tokens, nats per token; 0 if there are none.

    Position t predicts token t + 1. Padding is never predicted, and of a
    conversation only what :attr:`TokenBatch.predicted` says. Each token counts as its
    text does and as selectors say, :attr:`StepContext.labels`.

    Source:
        With :attr:`StepContext.smoothing`, Szegedy et al. 2016 (arXiv 1512.00567).
    """
    weight = ctx.labels[:, 1:]
    total = ctx.total(0, weight.sum())
    if isinstance(ctx.output, HiddenOutput):
        said = _said(ctx, ctx.output)
        if said is not None:
            counted = (ctx.of_texts(weight) / total).double()
            each = said[:, 1:].double().where(counted > 0, 0)
            return -(counted * each).sum().float()
        return _fused_cross_entropy(ctx.output, ctx, total)
    labels = ctx.batch.ids[:, 1:].masked_fill(weight == 0, -100)
    logits = ctx.logits[:, :-1].float()
    alike = all(x is None for x in (ctx.batch.weight, ctx.by_text, ctx.by_token))
    loss = F.cross_entropy(
        logits.transpose(1, 2),
        labels,
        reduction="sum" if alike else "none",
        label_smoothing=ctx.smoothing,
    )
    return loss / total if alike else (loss * ctx.of_texts(weight)).sum() / total


@torch.no_grad()
def next_token_losses(ctx: StepContext) -> tuple[Tensor, Tensor]:
    """What each text's predicted tokens cost together, (B,) nats, and how many they
    are, (B,)."""
    predicted, ids = label_weight(ctx.batch) > 0, ctx.batch.ids
    predicted[:, :1] = False
    before = predicted.roll(-1, 1)  # the first place is never predicted: none wraps
    if isinstance(ctx.output, HiddenOutput):
        block = max(BLOCK, LOGITS // ctx.output.head.size)
        hidden = ctx.output.hidden.detach()[before]
        said = linear_log_likelihood(hidden, ctx.output.head, ids[predicted], block)
    else:
        rows = ctx.output.detach()[before].float().log_softmax(-1)
        said = rows.gather(1, ids[predicted][:, None])[:, 0]
    each = said.new_zeros(ids.shape).masked_scatter(predicted, -said)
    return each.double().sum(1), predicted.sum(1)


def _said(ctx: StepContext, output: HiddenOutput) -> Tensor | None:
    """(B, T) log-probabilities of the student's tokens, where a term on outputs has had
    them worked out through the same head; None where not, or where labels are smoothed,
    which takes the logits of all other tokens, too."""
    outputs = ctx.outputs
    if outputs is None or ctx.smoothing:
        return None
    same_head = outputs.student.matrix.weight is output.head.weight
    same = same_head and outputs.student.hidden is output.hidden
    return outputs.tokens.log_probs if same else None


def _fused_cross_entropy(
    output: HiddenOutput, ctx: StepContext, total: Tensor | float
) -> Tensor:
    """The same, a block of tokens at a time, without the logits of all."""
    batch = ctx.batch
    wanted = ctx.labels
    wanted[:, :1] = 0
    # padding may have an id beyond the head
    ids = batch.ids.masked_fill(wanted == 0, 0)
    counted = ctx.of_texts(wanted)
    after, weight = (x.roll(-1, 1).flatten() for x in (ids, counted))
    labels = Labels(after, weight / total, ctx.smoothing)  # the first wraps as 0
    block = max(BLOCK, LOGITS // output.head.size)
    hidden = output.hidden.flatten(0, 1)
    with part("student"):  # its last layer, not a term's work
        loss = linear_divergence(hidden, output.head, [], labels=labels, block=block)
    return loss.float()


def _same(term: Term) -> Term:
    return term


def _count_labelled(places: Places) -> list[float]:
    return [places.labelled]


def _count_compared(places: Places) -> list[float]:
    return [float(places.compared.double().sum())]


def _count_attention(places: Places) -> list[float]:
    """Sampled queries for which a teacher with attention has a token of its own."""
    total, rows, counted = 0.0, places.rows, places.counted
    for m, reading in enumerate(places.readings):
        if reading.attention and rows is not None:
            known = reading.readable.gather(1, rows) >= 0
            total += float((at_rows(counted[..., m], rows) * known).double().sum())
    return [total]


def _count_relations(places: Places) -> list[float]:
    """Sampled tokens that have another one to be related to."""
    total, compared = 0.0, places.compared
    for m in range(len(places.readings)):
        if places.rows is not None:
            weight = _row_weight(compared[..., m], places.rows)
            total += float(weight.double().sum())
    return [total]


BUILT_IN: Mapping[str, Term] = {
    "ce": Term(
        ce,
        count=_count_labelled,
        compares=False,
        fades=False,
        alone=True,
        short="loss.delta_ce",
        options=NextTokenOptions,
    ),
    "kv_k": Term(kv_k, count=_count_compared, short="loss.lambda_k"),
    "kv_v": Term(kv_v, count=_count_compared, short="loss.lambda_v"),
    "cosine": Term(cosine, count=_count_compared, short="loss.beta_cos"),
    "attention_kl": Term(
        attention_kl,
        frozenset({ATTENTION}),
        count=_count_attention,
        compares=False,
        short="loss.gamma_kl",
        options=FeatureOptions,
    ),
    "relation_k": Term(
        relation_k,
        frozenset({RELATIONS}),
        count=_count_relations,
        compares=False,
        short="loss.relation_k",
        options=FeatureOptions,
    ),
    "relation_v": Term(
        relation_v,
        frozenset({RELATIONS}),
        count=_count_relations,
        compares=False,
        short="loss.relation_v",
        options=FeatureOptions,
    ),
    **OUTPUT_BUILT_IN,
}
"""Every built-in term, by the name that config, metrics and registry give it, in the
order in which a loss adds them. What else is said of a term is read from here."""

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    name: partial(_same, term) if term.options is None else with_options(name, term)
    for name, term in BUILT_IN.items()
}
"""What makes the built-in terms, by name; what has options is a dataclass of them."""


def chosen_terms(
    loss: LossConfig, output: OutputConfig | None = None
) -> dict[str, ChosenTerm]:
    """Every term that is on, by its own name: built-in ones, strangers', named ones.

    ``loss.terms`` is the general form. A weight of ``loss`` or ``output`` is short for
    a term called as its kind, and gives way to an entry of ``loss.terms`` of that name.

    Args:
        loss: of the terms, and of weights that have a setting of their own.
        output: of the weights of terms on next-token distributions; None: none.

    Raises:
        InputError: ``loss.extra`` repeats a term, or ``loss.terms`` gives a built-in's
            name to something else.
    """
    terms: dict[str, ChosenTerm] = {}
    sections = {"loss": loss, "output": output}
    for name, built_in in BUILT_IN.items():
        section, _, setting = built_in.short.partition(".")
        weight = getattr(sections.get(section), setting, 0.0)
        terms[name] = ChosenTerm(kind=name, weight=weight)
        if name in loss.extra:
            raise InputError(
                f"loss.extra.{name} repeats a built-in term; set its own weight, "
                f"{short_form(name)}, instead"
            )
    terms |= {n: ChosenTerm(kind=n, weight=weight) for n, weight in loss.extra.items()}
    for name, choice in loss.chosen.items():
        if name in loss.extra:
            raise InputError(
                f"loss.extra.{name} and loss.terms.{name} are one term; keep the second"
            )
        if name in BUILT_IN and choice.kind != name:
            raise InputError(
                f"loss.terms.{name} uses {choice.kind!r}, but {name} is a built-in "
                "term; call yours something else"
            )
        terms[name] = choice
    return {name: term for name, term in terms.items() if is_on(term.weight)}


def term_weights(
    loss: LossConfig, output: OutputConfig | None = None
) -> dict[str, Setting]:
    """The weight of every term that is on, by its own name; see :func:`chosen_terms`.

    Raises:
        InputError: two settings give one term.
    """
    return {name: term.weight for name, term in chosen_terms(loss, output).items()}


def short_form(kind: str) -> str:
    """The setting that is short for the weight of a term called as its kind."""
    term = BUILT_IN.get(kind)
    if term is None:
        return f"loss.extra.{kind}"
    return term.short or f"loss.terms.{kind}.weight"


def _distance(ctx: StepContext, per_token: Callable[[Compared], Tensor]) -> Tensor:
    """Average (L, B, T) distances over layers, tokens and comparisons by weight."""
    total, weight = ctx.zero(), ctx.zero()
    for comparison in ctx.comparisons:
        distance = per_token(comparison)
        layers = len(distance)
        total = total + (distance * comparison.weight).sum() / layers
        weight = weight + comparison.weight.expand_as(distance).sum() / layers
    return total / ctx.total(0, weight)


def _relations(
    ctx: StepContext, pick: Callable[[Relation], tuple[Tensor, Tensor]]
) -> Tensor:
    total, weight = ctx.zero(), ctx.zero()
    for relation in ctx.relations:
        student, teacher = pick(relation)
        rows, known = relation.rows, _any_layer(relation.weight > 0)
        log_s = _relation_log_softmax(student, rows, known, ctx.temperature)
        log_t = _relation_log_softmax(teacher, rows, known, ctx.temperature)
        per_row = _kl(log_t.exp(), log_s) * _squared_temperature(ctx)  # (L, B, R)
        row_weight, layers = _row_weight(relation.weight, rows), len(per_row)
        total = total + (per_row * row_weight).sum() / layers
        weight = weight + row_weight.expand_as(per_row).sum() / layers
    return total / ctx.total(0, weight)


def _row_weight(weight: Tensor, rows: Tensor) -> Tensor:
    """(..., B, T) -> (..., B, R): 0 for a token that nothing else is known beside."""
    known = _any_layer(weight > 0)
    return at_rows(weight, rows) * (known.sum(1, keepdim=True) > 1)


def _relation_log_softmax(
    x: Tensor, rows: Tensor, known: Tensor, temperature: Tensor | None
) -> Tensor:
    """Relations of the chosen rows to all known tokens but themselves.

    (L, B, T, C), (B, R), (B, T) -> (L, B, R, T); unknown tokens get about -1e4,
    not -inf, so that their product with probability 0 stays 0.
    """
    x = x.float()
    index = rows[None, :, :, None].expand(x.shape[0], -1, -1, x.shape[3])
    with without_autocast(x):  # a softmax tells rounding apart
        scores = x.gather(2, index) @ x.transpose(2, 3) / x.shape[3] ** 0.5
    if temperature is not None:
        scores = scores / temperature[:, None, None, None]
    itself = F.one_hot(rows, x.shape[2]).bool()  # (B, R, T)
    hidden = itself | ~known[:, None, :]
    return scores.masked_fill(hidden[None], -1e4).log_softmax(-1)


def _any_layer(known: Tensor) -> Tensor:
    """(B, T) or (L, B, T) bool -> (B, T)."""
    return known.any(0) if known.dim() == 3 else known


def _squared_temperature(ctx: StepContext) -> Tensor | float:
    """(L, 1, 1), the factor that keeps gradients' size as temperatures grow."""
    return 1.0 if ctx.temperature is None else ctx.temperature.square()[:, None, None]


def _kl(target: Tensor, log_pred: Tensor) -> Tensor:
    """Sum over the last axis of target * (log target - log pred); 0 log 0 = 0."""
    smallest = torch.finfo(target.dtype).tiny  # several times as fast as xlogy
    return (target * (target.clamp_min(smallest).log() - log_pred)).sum(-1)
