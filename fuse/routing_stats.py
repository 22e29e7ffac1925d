"""What a router does, in numbers: per teacher, layer and domain, with alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from align.tokens.batch import TokenBatch
from align.tokens.kinds import KINDS, kinds_of_tokens
from fuse.config import COLLAPSE_SHARE, UNIFORM_ENTROPY

_TEXTS = 4
"""Of a batch, whose tokens are told apart by kind: a look at each takes time."""
_CHARACTERS = 400
"""Of the text that is kept as a sample."""


def routing_entropy(weights: Tensor) -> Tensor:
    """Entropy of each weighting.

    Args:
        weights: (..., M) float, >= 0, summing to 1 over M; a row of zeros (no
            teacher available) has entropy 0.

    Returns:
        (...) float32, nats, in [0, log M], differentiable.

    Source:
        Shannon (1948), with 0 log 0 = 0.
    """
    w = weights.float()
    return -(w * w.clamp(min=torch.finfo(torch.float32).tiny).log()).sum(-1)


@dataclass(frozen=True, slots=True)
class RoutingAlarm:
    """What is wrong with a router."""

    kind: str
    """``collapsed``, ``uniform`` or ``starved``."""
    message: str
    """In one sentence, with what to do."""


@dataclass(kw_only=True, slots=True)
class RoutingStats:
    """Sums of routing weights since the last report.

    Feed it with :meth:`update` after each step, read the means, start a new one.
    Sums are float64 on the CPU, so a long window costs nothing.
    """

    teachers: Sequence[str]
    """M names, in the order of the weights' last axis."""
    _domains: dict[str, Tensor] = field(default_factory=dict)
    _chosen: dict[str, Tensor] = field(default_factory=dict)
    _kinds: dict[str, Tensor] = field(default_factory=dict)
    _sample: dict[str, Any] | None = None
    _layers: Tensor | None = None
    _entropy: float = 0.0
    _count: float = 0.0

    def update(
        self,
        weights: Tensor,
        domains: Sequence[str] | None = None,
        mask: Tensor | None = None,
        soft: Tensor | None = None,
    ) -> None:
        """Add one batch.

        Args:
            weights: (B, M), (B, T, M) or (L, B, T, M), rows summing to 1, or to
                0 where no teacher was available; those rows are left out.
            domains: B names of the texts' domains; None: all are ``"all"``.
            mask: (B, T) bool, tokens to count; ignored for (B, M).
            soft: as ``weights``, before anybody was chosen, of which the entropy is:
                that of one chosen teacher is 0, however undecided the router was; None:
                as ``weights``.

        Raises:
            ValueError: the weights name another number of teachers or domains.
        """
        w = weights.detach().to("cpu", torch.float64)
        if w.dim() not in (2, 3, 4) or w.shape[-1] != len(self.teachers):
            raise ValueError(
                f"weights have shape {tuple(w.shape)}; give (B, M), (B, T, M) or "
                f"(L, B, T, M) with M = {len(self.teachers)} teachers"
            )
        before = w if soft is None else soft.detach().to("cpu", torch.float64)
        w, before = _by_layer(w), _by_layer(before)
        names = list(domains) if domains is not None else ["all"] * w.shape[1]
        if len(names) != w.shape[1]:
            raise ValueError(f"{len(names)} domains for a batch of {w.shape[1]} texts")
        counted = w.sum(-1) > 0  # (L, B, T)
        if mask is not None and weights.dim() > 2:
            counted = counted & mask.detach().cpu()
        self._entropy += float((routing_entropy(before).double() * counted).sum())
        self._add(w * counted[..., None], counted, names)

    def _add(self, w: Tensor, counted: Tensor, names: list[str]) -> None:
        chosen = torch.nn.functional.one_hot(w.argmax(-1), w.shape[-1])
        chosen = chosen * counted[..., None]
        for index, name in enumerate(names):
            for store, x in ((self._domains, w), (self._chosen, chosen)):
                total = x[:, index].sum((0, 1)).double()
                store[name] = store[name] + total if name in store else total
        layers = w.sum((1, 2))  # (L, M)
        self._layers = layers if self._layers is None else self._layers + layers
        self._count += float(counted.sum())

    def note(
        self,
        weights: Tensor,
        batch: TokenBatch,
        domains: Sequence[str],
        soft: Tensor | None = None,
    ) -> None:
        """Add one batch, with what its tokens hold.

        Args:
            weights: (B, T, M) or (L, B, T, M), see :meth:`update`.
            batch: the student's tokens, (B, T).
            domains: B names.
            soft: see :meth:`update`.
        """
        self.update(weights, domains, soft=soft)
        w = weights.detach().to("cpu", torch.float64)
        w = w.mean(0) if w.dim() == 4 else w
        texts, spans = batch.texts[:_TEXTS], batch.spans[:_TEXTS].tolist()
        rows = [kinds_of_tokens(*each) for each in zip(texts, spans, strict=True)]
        for name in KINDS:
            held = torch.tensor([[kind == name for kind in row] for row in rows])
            total = w[: len(rows)][held].sum(0)
            if bool(total.any()):
                self._kinds[name] = self._kinds.get(name, 0.0) + total
        self._sample = _first_text(w, batch, domains, self.teachers)

    @property
    def count(self) -> int:
        """Weightings added: tokens, times layers where routing is per layer."""
        return int(self._count)

    def entropy(self) -> float:
        """Mean entropy in nats, of the weights before anybody was chosen; NaN before
        the first update."""
        return self._entropy / self._count if self._count else math.nan

    def mean(self) -> dict[str, float]:
        """Mean weight of every teacher; they sum to 1."""
        return self._named(sum(self._domains.values(), torch.zeros(())))

    def by_domain(self) -> dict[str, dict[str, float]]:
        """Mean weight of every teacher on the texts of each domain."""
        return {name: self._named(x) for name, x in sorted(self._domains.items())}

    def by_layer(self) -> list[dict[str, float]]:
        """Mean weight of every teacher in each layer; one row where all share."""
        return [] if self._layers is None else [self._named(x) for x in self._layers]

    def confusion(self) -> dict[str, dict[str, float]]:
        """For each domain, the share of tokens on which each teacher led."""
        return {name: self._named(x) for name, x in sorted(self._chosen.items())}

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Mean weight of every teacher on each kind of token, see :meth:`note`."""
        return {name: self._named(x) for name, x in self._kinds.items()}

    def line(self) -> dict[str, Any]:
        """All of it, as a metric line says it."""
        line: dict[str, Any] = {
            "weights": self.by_domain(),
            "leads": self.confusion(),
            "entropy": self.entropy(),
        }
        if self._kinds:
            line["kinds"] = self.by_kind()
        if self._sample is not None:
            line["sample"] = self._sample
        layers = self.by_layer()
        if len(layers) > 1:
            line["layers"] = {str(index): row for index, row in enumerate(layers)}
        return line

    def _named(self, sums: Tensor) -> dict[str, float]:
        if sums.dim() == 0:
            return dict.fromkeys(self.teachers, math.nan)
        total = float(sums.sum())
        shares = (sums / total if total else sums).tolist()
        return dict(zip(self.teachers, shares, strict=True))


def _by_layer(w: Tensor) -> Tensor:
    """(L, B, T, M) of (B, M), (B, T, M) or itself."""
    w = w[:, None] if w.dim() == 2 else w
    return w[None] if w.dim() == 3 else w


def _first_text(
    w: Tensor, batch: TokenBatch, domains: Sequence[str], teachers: Sequence[str]
) -> dict[str, Any] | None:
    """Who led on each token of a batch's first text, as far as it is kept."""
    if not batch.texts:
        return None
    text, spans = str(batch.texts[0])[:_CHARACTERS], batch.spans[0].tolist()
    kept = [t for t, (start, end) in enumerate(spans) if start < end <= len(text)]
    most, leader = w[0].max(-1)
    return {
        "domain": domains[0],
        "text": text,
        "names": list(teachers),
        "starts": [spans[t][0] for t in kept],
        "ends": [spans[t][1] for t in kept],
        "teachers": [int(leader[t]) for t in kept],
        "weights": [round(float(most[t]), 3) for t in kept],
    }


def routing_alarm(
    mean: Mapping[str, float],
    entropy: float,
    by_domain: Mapping[str, Mapping[str, float]] | None = None,
    collapse_share: float = COLLAPSE_SHARE,
    uniform_entropy: float = UNIFORM_ENTROPY,
    starved_share: float = 0.0,
) -> RoutingAlarm | None:
    """Recognise a router that always or never chooses.

    Args:
        mean: mean weight per teacher.
        entropy: mean entropy of the single weightings, nats; NaN is none.
        by_domain: mean weight per teacher for each domain; where given, their number
            is quoted, since one domain alone may rightly use one teacher.
        collapse_share: mean weight of one teacher above which routing has collapsed.
        uniform_entropy: entropy over log M above which it is uniform.
        starved_share: mean weight below which a teacher starves; 0: none does.

    Returns:
        What to warn of, or None where routing looks alive or there is one teacher.
    """
    if len(mean) < 2:
        return None
    leader = max(mean, key=lambda name: mean[name])
    if mean[leader] > collapse_share:
        where = f" over {len(by_domain)} domains" if by_domain else ""
        return RoutingAlarm(
            "collapsed",
            f"routing has collapsed: {leader!r} takes {mean[leader]:.1%} of the weight"
            f"{where}; set fuse.entropy_target=diverse or raise "
            "fuse.entropy_warmup_steps (learned routing), or raise fuse.temperature",
        )
    most = math.log(len(mean))
    if entropy > uniform_entropy * most:
        return RoutingAlarm(
            "uniform",
            f"routing is uniform: mean entropy {entropy:.3f} of at most {most:.3f} "
            "nats, as if weights were fixed; lower fuse.temperature, train the "
            "router longer, or use fuse.fusion_method=fixed",
        )
    least = min(mean, key=lambda name: mean[name])
    if mean[least] < starved_share:
        return RoutingAlarm(
            "starved",
            f"routing starves {least!r}, which has {mean[least]:.1%} of the weight: "
            "nothing is learned from it; leave it out of the phase's teachers, set "
            "fuse.entropy_target=diverse (learned routing), or raise fuse.temperature",
        )
    return None
