"""What each teacher was worth: asked, read, and missed when it is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.record.run_dir import MAIN, WITHOUT
from experiments.run.gates import Judgement, kept_before

Bpc = Mapping[str, float]
"""Bits per character by domain."""


def ledger(
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    judged: Sequence[Judgement],
    routing: Sequence[Mapping[str, Any]],
    alone: Mapping[str, Bpc],
) -> dict[str, dict[str, Any]]:
    """Draw up the account of every teacher of the phases that were kept.

    Args:
        results: what every arm measured.
        judged: what the gate made of each phase of the main arm.
        routing: the main arm's metric lines of that kind.
        alone: the teachers' own bits per character.

    Returns:
        By teacher: ``phase``, the last one kept in which it taught; ``share``, its
        mean routing weight by domain over that phase; its ``coverage`` there;
        ``bpc``, its own, None without a loss of its own; ``without``, the final
        student's bits per character when it is left out, and ``loses``, how many more
        that is than with it; both None where no such arm was asked for. Where
        evaluators measured more, ``more``: by metric and part, how much more it is
        without the teacher.
    """
    last = kept_before(judged)
    if last is None:
        return {}
    account: dict[str, dict[str, Any]] = {}
    for stage_result, judgement in zip(results[MAIN], judged, strict=True):
        if judgement.rolled_back:
            continue
        lines = [line for line in routing if line.get("phase") == stage_result["name"]]
        for name in stage_result["teachers"]:
            account[name] = {
                "phase": stage_result["name"],
                "share": mean_share(lines, name),
                "coverage": stage_result["coverage"].get(name),
                "bpc": alone.get(name),
                **_missed(results, last, name),
            }
    return account


def mean_share(lines: Sequence[Mapping[str, Any]], teacher: str) -> dict[str, float]:
    """A teacher's weight by domain, the mean over metric lines that hold the domain."""
    shares: dict[str, list[float]] = {}
    for line in lines:
        for domain, weights in line["weights"].items():
            shares.setdefault(domain, []).append(weights[teacher])
    return {
        domain: sum(of_domain) / len(of_domain) for domain, of_domain in shares.items()
    }


def _missed(
    results: Mapping[str, Sequence[Mapping[str, Any]]], last: int, name: str
) -> dict[str, Any]:
    arm = results.get(f"{WITHOUT}{name}")
    if arm is None:
        return {"without": None, "loses": None}
    without, main_bpc = arm[last]["bpc"], results[MAIN][last]["bpc"]
    loses = {domain: bits - main_bpc[domain] for domain, bits in without.items()}
    missed: dict[str, Any] = {"without": without, "loses": loses}
    ours, theirs = arm[last].get("metrics"), results[MAIN][last].get("metrics")
    if ours and theirs:
        missed["more"] = {
            metric: {
                part: value - theirs[metric][part]
                for part, value in parts.items()
                if part in theirs[metric]
            }
            for metric, parts in ours.items()
            if metric in theirs
        }
    return missed
