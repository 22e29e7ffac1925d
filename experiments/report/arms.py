"""Every student of a run's last phase in one table, and the teachers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.record.run_dir import RunDir, mean_bpc
from experiments.report.teachers import number, percent_more

Row = tuple[str, Mapping[str, float]]
"""Who, with bits per character by domain."""


def arm_table(run: RunDir) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the student before the run, without teachers, of each teacher
    alone and of all, then what the teachers need themselves.

    Empty where the run has trained no baseline.
    """
    phases: list[dict[str, Any]] = run.summary.get("phases") or []
    last = run.summary.get("final_phase")
    names = [entry["name"] for entry in phases]
    index = names.index(last) if last in names else len(phases) - 1
    baselines = _baselines(run, phases[index], index) if phases else []
    ours = phases[index].get("bpc") if phases else None
    if not baselines or not ours:
        return [], []
    taught = ", ".join(phases[index].get("teachers") or ())
    before = run.summary.get("start")
    teachers: Mapping[str, Any] = run.summary.get("teachers") or {}
    students = [
        *([("untrained", before)] if before else []),
        *baselines,
        (f"taught by {taught}", ours),
    ]
    themselves = [
        (f"{name} itself", facts["bpc"])
        for name, facts in teachers.items()
        if facts.get("bpc")
    ]
    domains = list(ours)
    several = ["mean"] if len(domains) > 1 else []
    ce_only = mean_bpc(phases[index].get("ce_only"))
    rows = [
        [
            who,
            *(number(bpc.get(domain)) for domain in domains),
            *([number(mean_bpc(bpc))] if several else []),
            percent_more(mean_bpc(bpc), None if who == "CE only" else ce_only),
        ]
        for who, bpc in [*students, *themselves]
    ]
    return [f"after {names[index]}", *domains, *several, "vs CE only"], rows


def _baselines(run: RunDir, entry: Mapping[str, Any], index: int) -> list[Row]:
    ce_only = entry.get("ce_only")
    singles: Mapping[str, Any] = run.summary.get("singles") or {}
    alone = [
        (f"{name} alone", bpc[index])
        for name, bpc in singles.items()
        if index < len(bpc) and bpc[index]
    ]
    return [*([("CE only", ce_only)] if ce_only else []), *alone]
