"""Numbers by which teachers are compared: alone, two by two, and together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from experiments.teacher_pool.read import Heard, Reading
from fuse.routing_room import mixture, saved

WORTH = 0.01
"""Share of the bits that a further teacher has to save."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two teachers beside each other."""

    teachers: tuple[str, str]
    together: float
    """Bits per character with both at hand, see :func:`together`."""
    disagreement: float
    """Mean distance of what they give the same stretch, bits per character."""
    correlation: float
    """Of what they give stretches, over stretches (Pearson), mean over domains."""
    cka_states: float
    """Of last hidden states, mean over domains."""
    cka_kv: float
    """Of keys beside values of the middle layers, mean over domains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Why a teacher is suggested, or is not."""

    teacher: str
    bits: float
    """Bits per character with it beside those that are suggested before it."""
    saves: float
    """The share of bits that this saves; of the first, 0."""
    suggested: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """What one pass says of M teachers."""

    names: tuple[str, ...]
    bits: Mapping[str, tuple[float, ...]]
    """By domain, (M,) bits per character of each."""
    equal: Mapping[str, float]
    """By domain, of the mean of all their probabilities."""
    per_text: Mapping[str, float]
    """By domain, of the right teacher for every text."""
    per_stretch: Mapping[str, float]
    """By domain, of the right teacher for every stretch, which nobody knows before."""
    all_together: float
    """See :func:`together`."""
    without: Mapping[str, float]
    """By teacher, what the others come to together."""
    pairs: tuple[Pair, ...]
    suggestion: tuple[Kept, ...]
    """In the order in which they are taken; then those that are not."""
    seconds: Mapping[str, float]
    """By teacher, a thousand characters."""
    parameters: Mapping[str, int]
    stretches: Mapping[str, int]
    """By domain."""
    left_out: Mapping[str, str]

    @property
    def subset(self) -> list[str]:
        """Who is suggested."""
        return [kept.teacher for kept in self.suggestion if kept.suggested]

    def plain(self) -> dict[str, Any]:
        """For other programs."""
        of = {d: dict(zip(self.names, bits, strict=True)) for d, bits in self._bits()}
        return {
            "teachers": {
                name: {
                    "bits_per_char": {d: of[d][name] for d in of},
                    "parameters": self.parameters[name],
                    "seconds_per_1000_chars": self.seconds[name],
                    "without": self.without[name],
                }
                for name in self.names
            },
            "domains": {
                domain: {
                    "stretches": self.stretches[domain],
                    "equal": self.equal[domain],
                    "per_text": self.per_text[domain],
                    "per_stretch": self.per_stretch[domain],
                }
                for domain in self.bits
            },
            "pairs": [
                {
                    "teachers": list(pair.teachers),
                    "together": pair.together,
                    "disagreement": pair.disagreement,
                    "correlation": pair.correlation,
                    "cka_states": pair.cka_states,
                    "cka_kv": pair.cka_kv,
                }
                for pair in self.pairs
            ],
            "together": self.all_together,
            "suggested": self.subset,
            "reasons": [
                {"teacher": k.teacher, "bits": k.bits, "saves": k.saves}
                for k in self.suggestion
            ],
            "left_out": dict(self.left_out),
        }

    def _bits(self) -> list[tuple[str, tuple[float, ...]]]:
        return list(self.bits.items())


def compared(reading: Reading) -> Pool:
    """Compare the teachers of one pass."""
    names, domains = tuple(reading.teachers), reading.domains
    every = list(range(len(names)))
    thousand = max(reading.characters, 1) / 1000
    models = {name: t.loaded.model for name, t in reading.teachers.items()}
    per_text = {d: _bits(_by_text(h, every), h) for d, h in domains.items()}
    return Pool(
        names=names,
        bits={
            domain: tuple(_bits(torch.cat(heard.nats)[:, m], heard) for m in every)
            for domain, heard in domains.items()
        },
        equal={d: _bits(_equal(h, every), h) for d, h in domains.items()},
        per_text=per_text,
        per_stretch={
            d: _bits(torch.cat(h.nats).amax(1), h) for d, h in domains.items()
        },
        all_together=together(domains, every),
        without={
            name: together(domains, [m for m in every if m != out])
            for out, name in enumerate(names)
        },
        pairs=tuple(_pair(names, domains, i, j) for i, j in combinations(every, 2)),
        suggestion=tuple(suggested(names, domains)),
        seconds={
            name: spent / thousand
            for name, spent in zip(names, reading.seconds, strict=True)
        },
        parameters={
            name: sum(p.numel() for p in model.parameters())
            for name, model in models.items()
        },
        stretches={d: sum(map(len, h.nats)) for d, h in domains.items()},
        left_out=reading.left_out,
    )


def together(domains: Mapping[str, Heard], some: Sequence[int]) -> float:
    """What some teachers come to together, in bits per character, lower is better.

    Of every domain the better of two uses: the mean of their probabilities, and the
    right one of them for each text; then the mean over domains.

    Args:
        domains: what all said, by domain.
        some: which of them, one at least.
    """
    reached = [
        min(_bits(_equal(heard, some), heard), _bits(_by_text(heard, some), heard))
        for heard in domains.values()
    ]
    return sum(reached) / len(reached)


def suggested(names: Sequence[str], domains: Mapping[str, Heard]) -> list[Kept]:
    """Teachers one after another, each the one that saves most beside those before it.

    The first is the best alone. It ends with the first that saves less than ``WORTH``.
    """
    rest, taken, out = set(range(len(names))), list[int](), list[Kept]()
    before = math.inf
    while rest:
        bits = {m: together(domains, [*taken, m]) for m in sorted(rest)}
        best = min(bits, key=lambda m: bits[m])
        saves = 0.0 if not taken else saved(bits[best], before)
        if taken and saves < WORTH:
            out += [
                Kept(
                    teacher=names[m],
                    bits=bits[m],
                    saves=saved(bits[m], before),
                    suggested=False,
                )
                for m in sorted(bits, key=lambda m: bits[m])
            ]
            return out
        out.append(
            Kept(teacher=names[best], bits=bits[best], saves=saves, suggested=True)
        )
        taken.append(best)
        rest.remove(best)
        before = bits[best]
    return out


def linear_cka(x: Tensor, y: Tensor) -> float:
    """How alike two models' representations of the same points are, in [0, 1].

    Args:
        x: (P, C) float.
        y: (P, C') float.

    Returns:
        NaN where one of them is the same at all points.

    Source:
        Kornblith et al. 2019 (arXiv 1905.00414), linear CKA: ||Yc'Xc||² over
        ||Xc'Xc|| ||Yc'Yc||, Frobenius norms of centred features.
    """
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    cross = (y.T @ x).norm() ** 2
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float(cross / scale) if scale > 0 else math.nan


def _pair(names: Sequence[str], domains: Mapping[str, Heard], i: int, j: int) -> Pair:
    apart, alike, states, kv = [], [], [], []
    for heard in domains.values():
        nats = torch.cat(heard.nats)[:, [i, j]]
        apart.append(-_bits((nats[:, 0] - nats[:, 1]).abs(), heard))
        alike.append(float(torch.corrcoef(nats.T)[0, 1]) if len(nats) > 1 else math.nan)
        states.append(linear_cka(*(torch.cat(heard.states[m]) for m in (i, j))))
        kv.append(linear_cka(*(torch.cat(heard.kv[m]) for m in (i, j))))
    return Pair(
        teachers=(names[i], names[j]),
        together=together(domains, [i, j]),
        disagreement=_mean(apart),
        correlation=_mean(alike),
        cka_states=_mean(states),
        cka_kv=_mean(kv),
    )


def _equal(heard: Heard, some: Sequence[int]) -> Tensor:
    nats = torch.cat(heard.nats)[:, list(some)]
    return mixture(nats, torch.full_like(nats, 1 / len(some)))


def _by_text(heard: Heard, some: Sequence[int]) -> Tensor:
    sums = torch.stack([nats[:, list(some)].sum(0) for nats in heard.nats])
    return sums.amax(1)


def _bits(nats: Tensor, heard: Heard) -> float:
    return float(-nats.sum()) / math.log(2) / heard.characters


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
