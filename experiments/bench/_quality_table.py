"""What the arms of the quality testbed came to: intervals, a table, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.bench._quality_arms import Arm
from experiments.plotting import COLOURS, grid

DRAWS = 2000
"""Bootstrap resamples behind every interval."""
Bits = Mapping[str, np.ndarray]
"""By domain, (samples, 2): bits and predicted characters of every held-out text."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One arm over its seeds."""

    arm: Arm
    runs: tuple[Bits, ...]
    """One per seed, over the same held-out texts."""
    cost: float
    """Processor seconds of a run, the median of the seeds."""

    def mean(self) -> dict[str, float]:
        """Bits per character by domain, averaged over seeds."""
        return {
            domain: _bpc([run[domain] for run in self.runs]) for domain in self.domains
        }

    @property
    def domains(self) -> list[str]:
        """Domains that were measured."""
        return list(self.runs[0])


def difference(one: Outcome, other: Outcome, domain: str | None) -> tuple[float, ...]:
    """How much lower ``one`` reads than ``other``, in per cent of ``other``.

    Args:
        one: an arm.
        other: what it is compared with, over the same seeds and texts.
        domain: one domain; None for the mean over domains.

    Returns:
        The difference (negative is better) and its 95 % interval: low, high.

    Source:
        Percentile bootstrap over seeds, and over held-out texts within them; both arms
        are drawn together, so what texts and seeds share falls out (Efron and
        Tibshirani 1993, ch. 8).
    """
    domains = one.domains if domain is None else [domain]
    rng = np.random.default_rng(0)
    seeds = min(len(one.runs), len(other.runs))
    drawn = []
    for _ in range(DRAWS):
        chosen = rng.integers(seeds, size=seeds)
        ratios = []
        for name in domains:
            texts = rng.integers(len(one.runs[0][name]), size=len(one.runs[0][name]))
            ratios.append(
                [_bpc([o.runs[s][name][texts] for s in chosen]) for o in (one, other)]
            )
        drawn.append(_relative(ratios))
    exact = [
        [_bpc([o.runs[s][name] for s in range(seeds)]) for o in (one, other)]
        for name in domains
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return _relative(exact), float(low), float(high)


def best_single(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The lowest mean among the arms of one teacher; None where there is none."""
    single = [outcome for outcome in outcomes if len(outcome.arm.teachers) == 1]
    return min(single, key=lambda o: sum(o.mean().values()), default=None)


def table(outcomes: Sequence[Outcome], baseline: Outcome) -> list[list[str]]:
    """Rows of name, seeds, bits per character by domain and mean, differences, cost."""
    rows, best = [], best_single(outcomes)
    for outcome in outcomes:
        mean = outcome.mean()
        row = [outcome.arm.name, str(len(outcome.runs))]
        row += [f"{mean[domain]:.3f}" for domain in outcome.domains]
        row.append(f"{sum(mean.values()) / len(mean):.3f}")
        for other in (baseline, best):
            if other is None or outcome is other or outcome is baseline:
                row.append("")
            else:
                delta, low, high = difference(outcome, other, None)
                row.append(f"{delta:+.1f} [{low:+.1f}, {high:+.1f}]")
        row.append(f"{outcome.cost / baseline.cost:.1f}")
        rows.append(row)
    return rows


def read_outcome(arm: Arm, folder: Path, seeds: Sequence[int]) -> Outcome:
    """Read an arm's finished runs.

    Raises:
        FileNotFoundError: a seed was not trained.
    """
    texts = [(folder / f"{seed}.json").read_text(encoding="utf-8") for seed in seeds]
    told = [json.loads(text) for text in texts]
    runs = tuple(
        {domain: np.array(pairs) for domain, pairs in one["bits"].items()}
        for one in told
    )
    return Outcome(arm, runs, float(np.median([one["cpu_s"] for one in told])))


def draw(outcomes: Sequence[Outcome], baseline: Outcome, path: Path) -> None:
    """Draw every arm's difference from the baseline with its interval, by domain."""
    shown = [outcome for outcome in outcomes if outcome is not baseline]
    domains = [*baseline.domains, None]
    figure, panels = grid(len(domains), len(domains), (3.6, 0.8 + 0.28 * len(shown)))
    for axes, domain in zip(panels, domains, strict=True):
        for row, outcome in enumerate(shown):
            delta, low, high = difference(outcome, baseline, domain)
            colour = COLOURS[2] if high < 0 else COLOURS[1] if low > 0 else "0.4"
            axes.plot([low, high], [row, row], color=colour)
            axes.plot(delta, row, "o", color=colour)
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [o.arm.name for o in shown])
        axes.invert_yaxis()
        axes.set_title(domain or "mean")
        axes.set_xlabel(f"against {baseline.arm.name}, %", fontsize=8)
    figure.savefig(path, dpi=120)


def _bpc(runs: Sequence[np.ndarray]) -> float:
    """The mean over seeds of a domain's bits over its characters."""
    return float(np.mean([run[:, 0].sum() / run[:, 1].sum() for run in runs]))


def _relative(pairs: Sequence[Sequence[float]]) -> float:
    one, other = np.mean(pairs, axis=0)
    return float(100 * (one / other - 1))
