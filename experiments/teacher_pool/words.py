"""What a comparison of teachers says, in rows and sentences."""

from __future__ import annotations

from experiments.teacher_pool.compared import WORTH, Pool
from fuse.routing_room import saved


def teacher_rows(pool: Pool) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, a teacher each; then what they come to together, by domain."""
    domains = list(pool.bits)
    heads = ["teacher", *domains, "without it", "s/1,000 chars", "parameters"]
    rows = []
    for m, name in enumerate(pool.names):
        bits = [f"{pool.bits[domain][m]:.3f}" for domain in domains]
        worth = saved(pool.all_together, pool.without[name])
        rows.append(
            [
                name,
                *bits,
                f"{pool.without[name]:.3f} ({worth:+.1%})",
                f"{pool.seconds[name]:.3f}",
                f"{pool.parameters[name]:,}",
            ]
        )
    for what, column in (
        ("all alike", pool.equal),
        ("right one per text", pool.per_text),
        ("right one per stretch (not reachable)", pool.per_stretch),
    ):
        rows.append([what, *(f"{column[d]:.3f}" for d in domains), "", "", ""])
    return heads, rows


def pair_rows(pool: Pool) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, a pair each, the best first."""
    heads = ["pair", "together", "disagree", "correlation", "CKA states", "CKA KV"]
    rows = [
        [
            " + ".join(pair.teachers),
            f"{pair.together:.3f}",
            f"{pair.disagreement:.3f}",
            f"{pair.correlation:.2f}",
            f"{pair.cka_states:.2f}",
            f"{pair.cka_kv:.2f}",
        ]
        for pair in sorted(pool.pairs, key=lambda pair: pair.together)
    ]
    return heads, rows


def sentences(pool: Pool) -> list[str]:
    """What is to be said beside the tables: who is suggested, and why."""
    out = [
        f"teacher {name!r} is left out: {why}" for name, why in pool.left_out.items()
    ]
    first, *others = pool.suggestion
    out.append(f"suggested: {', '.join(pool.subset)}")
    out.append(f"  {first.teacher}: the best alone, {first.bits:.3f}")
    for kept in others:
        if kept.suggested:
            out.append(
                f"  {kept.teacher}: saves {kept.saves:.1%} beside those before it, "
                f"{kept.bits:.3f}"
            )
        else:
            out.append(
                f"  not {kept.teacher}: beside {', '.join(pool.subset)} it saves "
                f"{kept.saves:.1%}, less than {WORTH:.0%} ({kept.bits:.3f})"
            )
    cheap = [n for n in pool.names if n not in pool.subset]
    if cheap:
        spent = sum(pool.seconds.values())
        less = sum(pool.seconds[name] for name in pool.subset)
        out.append(f"they take {less / spent:.0%} of the time that all take")
    out.append(
        "this says what teachers foretell, not what a student learns of them: a run "
        "with baselines.leave_one_out=all does"
    )
    return out
