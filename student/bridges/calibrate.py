"""Read a sample once before a phase, and fit everything that has a closed form."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from align.calibration import CalibrationStats
from align.errors import InputError
from align.position_mean import PositionMean
from align.tokens.batch import TokenBatch
from align.views import Capture, TeacherView, with_kv
from student.attention_sinks import without_sinks
from student.bridges.base import Bridge, PairStats


class NoCoverageError(InputError):
    """A teacher shares no text with the student."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CalibrationReport:
    """What the calibration sample said."""

    coverage: dict[str, float]
    """Share of the student's text tokens that each teacher covers."""
    fit: dict[str, dict[str, list[float]]]
    """Per teacher what its calibration reports, by student layer."""
    hidden: Tensor
    """(N, C) float32, the student's mean hidden state of each sample."""
    bits: Tensor
    """(N, M) float32, each teacher's bits per character; NaN where it has none."""
    teachers: Sequence[str] = field(default=())
    constant: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """Per teacher the student's layers for which its ``keys`` or ``values`` are the
    same at every token; those alone of which something is."""


def fit_positions(bridge: Bridge, batches: Iterable[Sequence[TeacherView]]) -> None:
    """Find what teachers' keys and values are at each position, before calibration.

    Args:
        bridge: fitted in place, for its teachers with ``positions``.
        batches: every teacher's view of the sample.
    """
    chosen = [m for m, teacher in enumerate(bridge.teachers) if teacher.positions]
    for views in batches:
        met = with_kv(views)
        for m in chosen:
            kv = met[m].met
            for means, x in zip(_means(bridge, m), kv.flat(), strict=True):
                means.update(bridge.mix_depth(m, x), kv.mask)
    for m in chosen:
        for means in _means(bridge, m):
            means.fit()


def _means(bridge: Bridge, m: int) -> tuple[PositionMean, PositionMean]:
    k, v = bridge.position_k[m], bridge.position_v[m]
    assert isinstance(k, PositionMean) and isinstance(v, PositionMean)
    return k, v


@torch.no_grad()
def calibrate(
    capture: Capture,
    bridge: Bridge | None,
    batches: Iterable[tuple[TokenBatch, Sequence[TeacherView]]],
    skip_sinks: int,
    unasked: Collection[str] = (),
) -> CalibrationReport:
    """Fit a bridge on a sample, in one pass and constant memory.

    Args:
        capture: the student as it stands.
        bridge: fitted in place; None where no teacher is met in keys and values, and
            the sample tells of coverage, hidden states and losses alone.
        batches: the student's tokens with every teacher's view.
        skip_sinks: leading tokens to leave out, the student's and the teachers'.
        unasked: teachers that are asked nothing afterwards, so that the student's own
            statistics are not of the tokens that they cover.

    Raises:
        NoCoverageError: some teacher covers no token of the sample.
    """
    names = [] if bridge is None else [teacher.name for teacher in bridge.teachers]
    stats: dict[str, tuple[PairStats, PairStats]] = {}
    covered: dict[str, int] = {}
    tokens, hidden, bits = 0, [], []
    for batch, views in batches:
        layers = None if names else (0,)
        captured = capture(batch.ids, batch.mask, layers=layers, hidden=True)
        assert captured.hidden is not None
        counted = without_sinks(batch, views, skip_sinks) & batch.has_text[..., None]
        for m, view in enumerate(views):
            if bridge is not None and view.kv is not None:
                number = names.index(view.name)
                if view.name not in stats:
                    stats[view.name] = _empty_stats(bridge, number)
                _update(
                    stats[view.name],
                    bridge,
                    m=number,
                    view=view,
                    student_kv=captured.kv.flat(),
                    counted=counted[..., m],
                )
            shared = view.alignment.covered & batch.has_text
            covered[view.name] = covered.get(view.name, 0) + int(shared.sum())
        tokens += int(batch.has_text.sum())
        hidden.append(_pooled(captured.hidden, batch.mask))
        bits.append(_own_bits(views, len(batch.texts)))
    coverage = {name: count / max(tokens, 1) for name, count in covered.items()}
    _check(coverage, stats, skip_sinks)
    fit = {} if bridge is None else _fitted(bridge, stats, unasked)
    return CalibrationReport(
        coverage=coverage,
        fit=fit,
        hidden=torch.cat(hidden),
        bits=torch.cat(bits),
        teachers=list(coverage),
        constant=_constant(stats),
    )


def _constant(
    stats: Mapping[str, tuple[PairStats, PairStats]],
) -> dict[str, dict[str, list[int]]]:
    constant: dict[str, dict[str, list[int]]] = {}
    for name, pairs in stats.items():
        for side, pair in zip(("keys", "values"), pairs, strict=True):
            layers = pair.to_student.constant_x.nonzero().flatten().tolist()
            if layers:
                constant.setdefault(name, {})[side] = layers
    return constant


def _fitted(
    bridge: Bridge,
    stats: Mapping[str, tuple[PairStats, PairStats]],
    unasked: Collection[str],
) -> dict[str, dict[str, list[float]]]:
    names = [teacher.name for teacher in bridge.teachers]
    # What the student's statistics are of is said by the last.
    order = sorted(names, key=lambda name: name not in unasked)
    fit = {name: bridge.calibrate(names.index(name), *stats[name]) for name in order}
    return {name: fit[name] for name in names}


def _empty_stats(bridge: Bridge, m: int) -> tuple[PairStats, PairStats]:
    teacher, student = bridge.teachers[m], bridge.student
    device = bridge.gate_logit.device

    def pair(width_t: int, width_s: int) -> PairStats:
        layers = student.layers
        return PairStats(
            CalibrationStats(layers, width_t, width_s, device=str(device)),
            CalibrationStats(layers, width_s, width_t, device=str(device)),
        )

    return (
        pair(teacher.k_width, student.k_width),
        pair(teacher.v_width, student.v_width),
    )


def _update(
    stats: tuple[PairStats, PairStats],
    bridge: Bridge,
    *,
    m: int,
    view: TeacherView,
    student_kv: tuple[Tensor, Tensor],
    counted: Tensor,
) -> None:
    keep = view.alignment.covered & counted
    for pair, theirs, mine in zip(
        stats, bridge.depth(m, view), student_kv, strict=True
    ):
        x, y = view.alignment.apply(theirs)[:, keep], mine[:, keep]
        pair.to_student.update(x, y, mirrored=pair.to_teacher)


def _check(
    coverage: Mapping[str, float],
    stats: Mapping[str, tuple[PairStats, PairStats]],
    skip_sinks: int,
) -> None:
    for name, share in coverage.items():
        nothing = name in stats and stats[name][0].to_student.n == 0
        if nothing and share > 0 and skip_sinks > 1:
            raise NoCoverageError(
                f"teacher {name!r} covers no token of the student behind the first "
                f"{skip_sinks}, which loss.skip_sinks={skip_sinks} leaves out of every "
                "text of the calibration sample; lower it, 1 is usual, or give longer "
                "texts"
            )
        if share == 0 or nothing:
            raise NoCoverageError(
                f"teacher {name!r} covers no token of the student on the calibration "
                "sample: the two share no characters, or every text is one token "
                "long. Check that its tokenizer can read this text, or leave the "
                "teacher out"
            )


def _pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    weight = mask[..., None].float()
    return (hidden.float() * weight).sum(1) / weight.sum(1).clamp_min(1)


def _own_bits(views: Sequence[TeacherView], samples: int) -> Tensor:
    unknown = torch.full((samples,), float("nan"))
    columns = [
        unknown if view.bits_per_char is None else view.bits_per_char.float().cpu()
        for view in views
    ]
    return torch.stack(columns, -1)
