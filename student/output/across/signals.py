"""Put together what routers and others are told of a batch, each part where asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from align.tokenizer_align import LastTokenAligner
from align.tokens.answered import speaking
from align.tokens.batch import TokenBatch
from align.views import Output, TeacherView
from fuse.signals import (
    AGREEMENT,
    COST,
    DOMAIN,
    ENTROPY,
    FORETOLD,
    KV_FIT,
    LOG_PROB,
    LOSS_SO_FAR,
    MAX_PROB,
    OF_FORETOLD,
    OF_OUTPUTS,
    OF_STUDENT,
    RIGHT,
    STUDENT_ENTROPY,
    STUDENT_LOG_PROB,
    STUDENT_MAX_PROB,
    Signals,
)
from student.output.across.chunks import CommonChunks, common_chunks
from student.output.across.pairing import Pairing, after
from student.output.divergence.linear import BLOCK
from student.output.divergence.linear_likelihood import linear_log_likelihood
from student.output.divergence.top_tokens import linear_top_tokens


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sources:
    """All that signals are worked out of."""

    batch: TokenBatch
    """The student's tokens, (B, T)."""
    views: Sequence[TeacherView]
    """One per teacher, in the order of the weights."""
    domains: Sequence[str] | None = None
    """Of the B texts; None: nobody knows."""
    student: Output | None = None
    """The student's own next-token output, where one is asked for."""
    vocabulary: str | None = None
    """Digest of the student's tokens; None: no teacher's is taken for the same."""
    pairings: Sequence[Pairing | None] = ()
    """One per teacher where somebody made them before; else empty."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """By teacher; 0 where nobody knows."""
    fit: Callable[[], Tensor] | None = None
    """Works out ``Signals.kv_fit``."""
    block: int = BLOCK
    """Places whose logits are held at once."""


@torch.no_grad()
def signals_of(needs: frozenset[str], sources: Sources) -> Signals | None:
    """What somebody asks for, each worked out once; None where nobody asks.

    As with every alignment, where a teacher's tokens end is read off the whole text.

    Args:
        needs: of :data:`fuse.signals.SIGNALS`, of all who ask together.
        sources: of one batch.
    """
    if not needs:
        return None
    made: dict[str, Any] = {"teachers": [view.name for view in sources.views]}
    if DOMAIN in needs or FORETOLD in needs:
        made["domains"] = sources.domains
    if needs & OF_FORETOLD:
        made |= _of_foretold(needs, sources)
    if needs & OF_OUTPUTS:
        made |= _of_outputs(needs, sources)
    if needs & OF_STUDENT:
        made |= _of_student(needs, sources)
    if COST in needs:
        counts = [
            sources.parameters.get(view.name, 0) or torch.nan for view in sources.views
        ]
        made[COST] = torch.tensor(counts, device=sources.batch.ids.device)
    if KV_FIT in needs and sources.fit is not None:
        made[KV_FIT] = sources.fit()
    return Signals(**made)


def _of_foretold(needs: frozenset[str], sources: Sources) -> dict[str, Any]:
    """What was foretold of stretches that all spell with whole tokens."""
    batch, views = sources.batch, sources.views
    speaking = [view.foretold for view in views if view.foretold is not None]
    chunks = common_chunks([batch, *(said.tokens for said in speaking)])
    last, device = chunks.sides[0].last, batch.ids.device
    ends = torch.zeros(batch.ids.numel(), dtype=torch.bool, device=device)
    ends[last] = True
    foretold = torch.zeros(batch.ids.numel(), len(views), device=device)
    sides = iter(chunks.sides[1:])
    for m, view in enumerate(views):
        said = view.foretold
        nats = torch.nan if said is None else next(sides).sum(said.log_probs)
        foretold[last, m] = nats
    foretold = foretold.view(*batch.ids.shape, len(views))
    made: dict[str, Any] = {}
    if FORETOLD in needs:
        made = {"foretold": foretold, "ends": ends.view(batch.ids.shape)}
    if LOSS_SO_FAR in needs:
        made[LOSS_SO_FAR] = _loss_so_far(foretold, chunks)
    return made


def _loss_so_far(foretold: Tensor, chunks: CommonChunks) -> Tensor:
    """(B, T, M) nats a character of the stretches that have ended; NaN before one."""
    read = foretold.new_zeros(foretold[..., 0].numel())
    read[chunks.sides[0].last] = chunks.characters.to(read)
    characters = read.view(foretold.shape[:2]).cumsum(1)[..., None]
    return (-foretold.cumsum(1) / characters).where(characters > 0, torch.nan)


def _of_outputs(needs: frozenset[str], sources: Sources) -> dict[str, Any]:
    shape = (*sources.batch.ids.shape, len(sources.views))
    unknown = torch.full(shape, torch.nan, device=sources.batch.ids.device)
    made = {name: unknown.clone() for name in needs & OF_OUTPUTS - {AGREEMENT}}
    likeliest: list[tuple[str, Tensor]] = []
    for m, view in enumerate(sources.views):
        output = view.output
        if output is None:
            continue
        pairing = sources.pairings[m] if sources.pairings else None
        pairing = pairing or Pairing(sources.batch, output.tokens)
        alike = output.vocabulary == sources.vocabulary
        if LOG_PROB in needs:
            made[LOG_PROB][..., m] = _log_prob(output, pairing, alike, sources.block)
        if needs & {ENTROPY, MAX_PROB, RIGHT, AGREEMENT}:
            place = _last_read(output, pairing, alike)
            top = linear_top_tokens(
                output.hidden.flatten(0, 1), output.head, 1, sources.block
            )
            said = {
                ENTROPY: top.entropy,
                MAX_PROB: (top.logits[:, 0] - top.log_total).exp(),
                RIGHT: _right(output.tokens, top.ids[:, 0]),
            }
            for name in made.keys() & said.keys():
                made[name][..., m] = _at(said[name], place, torch.nan)
            likeliest.append((output.vocabulary, _at(top.ids[:, 0], place, -1)))
    if AGREEMENT in needs:
        made[AGREEMENT] = _agreement(likeliest, unknown[..., :1].sum(-1))
    widths = sources.batch.spans[..., 1] - sources.batch.spans[..., 0]
    return made | ({"widths": widths.float()} if LOG_PROB in needs else {})


def _last_read(output: Output, pairing: Pairing, alike: bool) -> Tensor:
    """(B, T) int64 into the teacher's B * T_t: its last token that has read no further
    than the student's, -1 for none."""
    student, teacher = pairing.student, output.tokens
    pairs = LastTokenAligner()(student, teacher)
    place = torch.full((student.ids.numel(),), -1, device=student.ids.device)
    said = speaking(teacher.mask).flatten()[pairs.cols]
    place[pairs.rows] = torch.where(said, pairs.cols, -1)
    place = place.view(student.ids.shape)
    # Tokens that begin a text and hold none of it stand for one another.
    leading = (teacher.has_text.cumsum(1) == 0).sum(1, keepdim=True) - 1
    row = torch.arange(len(teacher.ids), device=place.device)[:, None]
    start = torch.where(leading >= 0, row * teacher.ids.shape[1] + leading, -1)
    unread = student.mask & (student.has_text.cumsum(1) == 0)
    place = torch.where(unread & (place < 0), start, place)
    return torch.where(pairing.same >= 0, pairing.same, place) if alike else place


def _at(values: Tensor, place: Tensor, unknown: float) -> Tensor:
    """(B, T) values at places of a teacher's; ``unknown`` where there is none."""
    chosen = values[place.flatten().clamp_min(0)].view(place.shape)
    return chosen.where(place >= 0, torch.tensor(unknown).to(chosen))


def _right(tokens: TokenBatch, likeliest: Tensor) -> Tensor:
    """(B * T,) 1 where a token is followed by what was likeliest, 0 where by another,
    NaN where nothing is predicted."""
    right = (likeliest == after(tokens.ids).flatten()).float()
    known = after(tokens.predicted.float()).flatten() > 0
    return right.where(known, torch.nan)


def _log_prob(output: Output, pairing: Pairing, alike: bool, block: int) -> Tensor:
    """(B, T) nats of what comes, see :attr:`Signals.log_prob`."""
    student, hidden = pairing.student, output.hidden.flatten(0, 1)
    nats = torch.full(student.ids.shape, torch.nan, device=student.ids.device)
    if alike:
        known = pairing.same >= 0
        ids = after(student.ids)[known]
        said = linear_log_likelihood(
            hidden[pairing.same[known]], output.head, ids, block
        )
        return nats.masked_scatter(known, said.float())
    chunks = pairing.chunks()
    every = chunks.teacher.sum(label_log_probs(output, block)).float()
    width = (student.spans[..., 1] - student.spans[..., 0]).float()
    spelled = chunks.student.chunk >= 0
    of_token = chunks.student.chunk[spelled]
    width = width[spelled]
    whole = torch.zeros_like(every).index_add(0, of_token, width)
    share = width / whole[of_token]
    nats = nats.masked_scatter(spelled, every[of_token] * share)
    return torch.cat([nats[:, 1:], torch.full_like(nats[:, :1], torch.nan)], 1)


def _agreement(likeliest: Sequence[tuple[str, Tensor]], unknown: Tensor) -> Tensor:
    """(B, T) share of pairs that agree, see :attr:`Signals.agreement`."""
    same = torch.zeros_like(unknown)
    pairs = torch.zeros_like(unknown)
    for later, (vocabulary, ids) in enumerate(likeliest):
        for other, ids_of_other in likeliest[:later]:
            if other == vocabulary:
                both = (ids >= 0) & (ids_of_other >= 0)
                pairs += both
                same += both & (ids == ids_of_other)
    return same / pairs  # 0 / 0 is NaN, as it is to be


def _of_student(needs: frozenset[str], sources: Sources) -> dict[str, Tensor]:
    output, tokens = sources.student, sources.batch
    assert output is not None, "who asks for the student's output gives it"
    made = {}
    hidden = output.hidden.detach()
    if needs & {STUDENT_ENTROPY, STUDENT_MAX_PROB}:
        says = speaking(tokens.mask)
        top = linear_top_tokens(hidden[says], output.head, 1, sources.block)
        most = (top.logits[:, 0] - top.log_total).exp()
        for name, said in ((STUDENT_ENTROPY, top.entropy), (STUDENT_MAX_PROB, most)):
            if name in needs:
                unknown = torch.full(tokens.ids.shape, torch.nan, device=said.device)
                made[name] = unknown.masked_scatter(says, said.float())
    if STUDENT_LOG_PROB in needs:
        known = after(tokens.predicted.float()) > 0
        ids = after(tokens.ids)[known]
        said = linear_log_likelihood(hidden[known], output.head, ids, sources.block)
        unknown = torch.full(tokens.ids.shape, torch.nan, device=said.device)
        made[STUDENT_LOG_PROB] = unknown.masked_scatter(known, said.float())
    return made


def label_log_probs(output: Output, block: int) -> Tensor:
    """(B, T) log-probability of every token after those before it; 0 for the first."""
    real = output.tokens.mask.clone()
    real[:, :1] = False
    before = real.roll(-1, 1)  # the first place is never real, so nothing wraps
    log_probs = linear_log_likelihood(
        output.hidden[before], output.head, output.tokens.ids[real], block
    )
    return log_probs.new_zeros(real.shape).masked_scatter(real, log_probs)
