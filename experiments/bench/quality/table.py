"""What the arms of the quality testbed came to: intervals, a table, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.quality.arm import Arm
from experiments.bench.quality.train import Setup
from experiments.report.plotting import COLOURS, grid
from teacher.packages.cached import size_in_words

DRAWS = 2000
"""Bootstrap resamples behind every interval."""
DARK = 0.6
"""Share above which a cell's number is written in white."""
Bits = Mapping[str, np.ndarray]
"""By domain, (samples, 2): bits and predicted characters of every held-out text."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One arm over its seeds."""

    arm: Arm
    runs: tuple[Bits, ...]
    """One per seed, over the same held-out texts."""
    cost: float
    """Processor seconds of a run, the median of the seeds, and of its teachers' reading
    the training text, or writing it, once."""
    leads: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Domain -> teacher -> share of tokens on which it had the largest weight, the mean
    over seeds; empty where nothing is learned about it."""
    _: KW_ONLY
    peak: float = 0.0
    """Bytes that a run's process held at most, the median of the seeds; 0: unknown."""

    def mean(self) -> dict[str, float]:
        """Bits per character by domain, averaged over seeds."""
        return {
            domain: _bpc([run[domain] for run in self.runs]) for domain in self.domains
        }

    @property
    def domains(self) -> list[str]:
        """Domains that were measured."""
        return list(self.runs[0])


def difference(left: Outcome, right: Outcome, domain: str | None) -> tuple[float, ...]:
    """How much lower ``left`` reads than ``right``, in per cent of ``right``.

    Args:
        left: an arm.
        right: what it is compared with, over the same seeds and texts.
        domain: one domain; None for the mean over domains.

    Returns:
        The difference (negative is better) and its 95 % interval: low, high.

    Source:
        Percentile bootstrap over seeds, and over held-out texts within them; both arms
        are drawn together, so what texts and seeds share falls out (Efron and
        Tibshirani 1993, ch. 8).
    """
    domains = left.domains if domain is None else [domain]
    rng = np.random.default_rng(0)
    seeds = min(len(left.runs), len(right.runs))
    drawn = []
    for _ in range(DRAWS):
        chosen = rng.integers(seeds, size=seeds)
        ratios = []
        for name in domains:
            texts = rng.integers(len(left.runs[0][name]), size=len(left.runs[0][name]))
            ratios.append(
                [_bpc([o.runs[s][name][texts] for s in chosen]) for o in (left, right)]
            )
        drawn.append(_relative(ratios))
    exact = [
        [_bpc([o.runs[s][name] for s in range(seeds)]) for o in (left, right)]
        for name in domains
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return _relative(exact), float(low), float(high)


def best_single(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The lowest mean among the arms of one teacher; None where there is none."""
    single = [outcome for outcome in outcomes if len(outcome.arm.teachers) == 1]
    return min(single, key=lambda o: sum(o.mean().values()), default=None)


def table(outcomes: Sequence[Outcome], baseline: Outcome) -> list[list[str]]:
    """Rows of name, seeds, bits per character by domain and mean, differences, cost,
    memory."""
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
        row.append(size_in_words(int(outcome.peak)) if outcome.peak else "")
        rows.append(row)
    return rows


def is_whole(bed: Setup, arm: Arm, seeds: Sequence[int]) -> bool:
    """Whether all that :func:`read_outcome` reads is there."""
    files = [bed.result(arm, seed) for seed in seeds]
    files += [bed.adapting(name) for name in arm.adapted]
    files += [bed.making(text) for text in arm.reads]
    if arm.stored:
        files += [bed.reading(name) for name in arm.teachers]
    return all(file.is_file() for file in files)


def read_outcome(bed: Setup, arm: Arm, seeds: Sequence[int]) -> Outcome:
    """Read an arm's finished runs.

    Raises:
        FileNotFoundError: a seed was not trained, see :func:`is_whole`.
    """
    results = [_read(bed.result(arm, seed)) for seed in seeds]
    runs = tuple(
        {domain: np.array(pairs) for domain, pairs in result["bits"].items()}
        for result in results
    )
    cost = float(np.median([result["cpu_s"] for result in results]))
    cost += sum(_read(bed.adapting(name))["cpu_s"] for name in arm.adapted)
    cost += sum(_read(bed.making(text))["cpu_s"] for text in arm.reads)
    if arm.stored:
        cost += sum(_read(bed.reading(name))["cpu_s"] for name in arm.teachers)
    leads = _mean_leads([result["leads"] for result in results])
    # results of earlier benches do not say it
    peaks = [result["peak_bytes"] for result in results if "peak_bytes" in result]
    peak = float(np.median(peaks)) if peaks else 0.0
    return Outcome(arm, runs, cost, leads, peak=peak)


def adapting_table(bed: Setup, arms: Sequence[Arm]) -> list[list[str]]:
    """Heads and rows: an adapted teacher's bits per character, as it was, with new rows
    and trained, by domain and mean, and the processor seconds it took."""
    rows: list[list[str]] = [["teacher", "state", "mean", "seconds"]]
    for name in dict.fromkeys(t for arm in arms for t in arm.adapted):
        known = _read(bed.adapting(name))
        for state, bits in known["bits"].items():
            rows[0] = ["teacher", "state", *bits, "mean", "seconds"]
            mean = sum(bits.values()) / len(bits)
            cells = [f"{value:.3f}" for value in (*bits.values(), mean)]
            seconds = f"{known['cpu_s']:.0f}" if state == "adapted" else ""
            rows.append([name, state, *cells, seconds])
    return rows


def routing_table(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Heads and rows: arm, domain, share of every teacher, and what chance would give.

    Heads alone where nothing is routed; a teacher that an arm has not is ``-``.
    """
    routed = [outcome for outcome in outcomes if outcome.leads]
    teachers = list(dict.fromkeys(t for o in routed for t in o.arm.teachers))
    rows = [["arm", "domain", *teachers, "chance"]]
    for outcome in routed:
        for domain, shares in outcome.leads.items():
            cells = [f"{shares[t]:.0%}" if t in shares else "-" for t in teachers]
            rows.append([outcome.arm.name, domain, *cells, f"{1 / len(shares):.0%}"])
    return rows


def draw_routing(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw whom every router asked, domain by domain, in shares of tokens."""
    routed = [outcome for outcome in outcomes if outcome.leads]
    figure, panels = grid(len(routed), min(3, len(routed)), (3.4, 2.2))
    for axes, outcome in zip(panels, routed, strict=True):
        domains, teachers = list(outcome.leads), list(outcome.arm.teachers)
        cells = [[outcome.leads[d].get(t, 0.0) for t in teachers] for d in domains]
        axes.imshow(cells, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for row, line in enumerate(cells):
            for column, share in enumerate(line):
                colour = "white" if share > DARK else "black"
                axes.text(
                    column, row, f"{share:.0%}", ha="center", va="center", color=colour
                )
        axes.set_xticks(range(len(teachers)), teachers, fontsize=7)
        axes.set_yticks(range(len(domains)), domains)
        axes.grid(False)
        axes.set_title(f"{outcome.arm.name} (chance {1 / len(teachers):.0%})")
    figure.suptitle("teacher with the largest weight, share of tokens", fontsize=9)
    figure.savefig(path, dpi=120)


def _mean_leads(
    seeds: Sequence[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    first = seeds[0]
    return {
        domain: {
            name: float(np.mean([seed[domain][name] for seed in seeds]))
            for name in first[domain]
        }
        for domain in first
    }


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


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
    left, right = np.mean(pairs, axis=0)
    return float(100 * (left / right - 1))
