"""What an encoding costs, measured on a sample before anything is extracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from align.kv import KV
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.tokens.named_head import NONE, NamedHead
from align.views import Injection, TeacherView
from experiments.assemble.teaching import PhaseTeachers
from experiments.extraction.context import ExtractionContext
from experiments.extraction.sources import Source, student_space
from student.bridges.adapter import AdapterBridge
from teacher.capture.kv_capture import KVCapture
from teacher.panel import TeacherPanel
from teacher.store.facts import FUSED
from teacher.store.named import NamedCodec
from teacher.store.packing import PARTS, StoredSample, encode_sample
from teacher.store.records import Constants, codecs_of
from teacher.stored_teacher import same_tokens

SAMPLES = 16
"""Texts an error is measured on."""

ROWS = 16
"""Query positions per text whose attention is compared."""


def encoding_errors(
    extraction: ExtractionContext,
    source: Source,
    constants: Constants,
    phase_teachers: PhaseTeachers | None = None,
) -> dict[str, float]:
    """Compare what would be read with what would be written.

    Args:
        extraction: the config's models and text.
        source: the store; its plan names the encoding.
        constants: the encoding's.
        phase_teachers: from :func:`student_space`, where somebody has made it already.

    Returns:
        ``k`` and ``v``, the relative error (Frobenius norms, sinks and uncovered tokens
        left out), and ``attention_kl``, the KL in nats from the student's attention
        over the unencoded target to that over the encoded one, mean over layers, query
        positions and texts.
    """
    phase_teachers = phase_teachers or student_space(extraction, source.teachers)
    bridge = phase_teachers.teaching.bridge
    assert isinstance(bridge, AdapterBridge)
    student = KVCapture(
        extraction.models.student(None).to(bridge.gate_logit.device).eval()
    )
    reader = _StudentSide(source, bridge, phase_teachers.panel)
    codecs = codecs_of(source.plan, constants)
    sums = {part: [0.0, 0.0] for part in PARTS}
    divergences = []
    for text in extraction.corpus.probe[:SAMPLES]:
        (made,) = source.form([text])
        if isinstance(made, str):
            continue
        encoded = encode_sample(codecs, made)
        back = {part: codecs[part].decode(encoded.parts[part], None) for part in PARTS}
        for part in PARTS:
            _add(sums[part], getattr(made, part), back[part], made.origin > 1)
        batch = extraction.models.encode([text.text]).to(student.device)
        if not bool(batch.has_text.any()):
            continue
        decoded = replace(made, k=back["k"].float(), v=back["v"].float())
        views = reader.views(batch)
        targets = [reader.target(views, batch, stored) for stored in (made, decoded)]
        divergences.append(_attention_kl(student, batch, *targets))
    out = {
        str(part): round((off / max(size, 1e-30)) ** 0.5, 6)
        for part, (off, size) in sums.items()
    }
    # Two equal distributions differ by less than nothing where sums are rounded.
    mean = max(0.0, sum(divergences) / max(len(divergences), 1))
    return out | {"attention_kl": float(f"{mean:.3g}")}


def output_errors(source: Source, probe: Sequence[TextSample]) -> dict[str, float]:
    """Compare next-token outputs that would be read with those that would be written.

    Returns:
        ``outputs_kl``: the KL in nats from the distribution that was kept, the rest
        spread evenly, to the decoded one, mean over tokens.
    """
    shape = source.plan.outputs
    assert shape is not None
    codec, head = NamedCodec(shape), NamedHead(shape.vocabulary, shape.top_k)
    apart, tokens = 0.0, 0
    for text, made in zip(probe, source.form(probe[:SAMPLES]), strict=False):
        if isinstance(made, str):
            continue
        assert made.named is not None, text.id
        back = codec.decode(codec.encode(made.named))
        ids = torch.full((len(back.came),), NONE)  # the likeliest and the rest alone
        kept, read = (
            head.logits(named.rows(ids)).double().log_softmax(-1)
            for named in (made.named, back)
        )
        apart += float((kept.exp() * (kept - read)).sum())
        tokens += len(ids)
    return {"outputs_kl": float(f"{max(0.0, apart / max(tokens, 1)):.3g}")}


class _StudentSide:
    """Brings stored samples to where the student would read them."""

    def __init__(
        self, source: Source, bridge: AdapterBridge, panel: TeacherPanel
    ) -> None:
        self._source, self._bridge, self._panel = source, bridge, panel

    @torch.no_grad()
    def views(self, batch: TokenBatch) -> Sequence[TeacherView]:
        """The teacher beside the batch; none where a store holds what is read."""
        if self._source.plan.form in ("adapted", FUSED):
            return ()
        return self._panel(batch)

    @torch.no_grad()
    def target(
        self, views: Sequence[TeacherView], batch: TokenBatch, made: StoredSample
    ) -> KV:
        """(L_s, 1, H, T_s, D), masked to the tokens that have a target."""
        plan, heads = self._source.plan, self._bridge.student.heads
        k, v = made.k[:, None].float(), made.v[:, None].float()
        if not views:
            mask = made.origin[None] > 0
            return KV.from_flat(k, v, mask, heads).to(batch.ids.device)
        (view,) = views
        stored = plan.fingerprint["layers"]
        assert isinstance(stored, list)
        needed = self._bridge.teachers[0].layer_map.needed
        chosen = [stored.index(layer) for layer in needed]
        covered = view.alignment.covered
        if plan.form == "aligned":
            alignment = same_tokens(covered)
            view = replace(view, alignment=alignment, causal=alignment)
        kv = KV.from_flat(
            k[chosen], v[chosen], torch.ones(1, k.shape[2]).bool(), plan.shape.heads
        )
        view = replace(view, kv=kv.to(batch.ids.device))
        ((k_s, v_s),) = self._bridge.in_student_space([view])
        return KV.from_flat(k_s, v_s, covered, heads)


@torch.no_grad()
def _attention_kl(
    student: KVCapture, batch: TokenBatch, plain: KV, encoded: KV
) -> float:
    layers = tuple(range(student.num_layers))
    tokens = int(batch.mask.sum())
    rows = torch.linspace(0, tokens - 1, min(ROWS, tokens)).long()[None]
    gate = torch.ones(len(layers), device=batch.ids.device)
    maps: list[Tensor] = []
    for kv in (plain, encoded):
        inject = Injection(kv, layers, kv.mask & batch.has_text, gate)
        got = student(
            batch.ids,
            batch.mask,
            inject=inject,
            attention_rows=rows.to(batch.ids.device),
        )
        assert got.attention is not None
        maps.append(got.attention.double().clamp_min(1e-12))
    return float((maps[0] * (maps[0] / maps[1]).log()).sum(-1).mean())


def _add(sums: list[float], x: Tensor, back: Tensor, counted: Tensor) -> None:
    x, back = x[:, counted].double(), back[:, counted].double()
    sums[0] += float((back - x).square().sum())
    sums[1] += float(x.square().sum())
