"""Whether several teachers' keys and values make a better student, arm by arm.

    python -m experiments.bench.quality [--arms core] [--seeds 0 1 2] [--jobs 2]

Every arm trains the same student on the same data for the same steps, from each seed.
Teachers read the training text once, into a store that all arms and seeds share; what
is finished is kept under ``--out`` and not done again. The table compares with
cross-entropy alone: bits per character on held-out text, lower is better, with 95 %
bootstrap intervals over seeds and texts, and what an arm costs beside it. Several
``--steps`` give curves over steps and over processor seconds. Where there are
specialists, a picture holds what a router could gain against what its students gained.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from experiments.bench.quality.options import (
    DISJOINT,
    HALF,
    REAL,
    SAME,
    SIZES,
    parser,
)


def main() -> int:
    """Train what is missing, then print and draw what there is."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from align.errors import InputError
    from experiments.bench.quality.arms import chosen
    from experiments.bench.quality.jobs import work_through

    command_line = parser()
    options = command_line.parse_args()
    options.texts = dict(options.texts)
    groups = _groups(options, Path())  # for their names: nothing is made yet
    known = {arm.name: arm for arm in groups["all"]}
    if options.list:
        for group in (name for name in groups if name != "all"):
            print(f"{group}:")
            for arm in groups[group]:
                print(f"  {arm.name:<22} {arm.asks}")
        return 0
    wanted = options.arms or [next(iter(groups))]
    for name in wanted:
        if name not in groups and name not in known:
            valid = ", ".join([*groups, *known])
            command_line.error(f"--arms {name!r} is unknown; give one of {valid}")
    base, name = _base(options)
    beds = _beds(options, base, name)
    arms = chosen(wanted, _groups(options, base))
    for arm in arms:
        if unknown := beds[0].unknown(arm):
            command_line.error(
                f"--size {options.size} has no {unknown} for arm {arm.name}"
            )
    failed: dict[str, str] = {}
    try:
        for bed in beds:
            failed |= work_through(
                bed, arms, options.seeds, options.jobs, 60 * options.budget
            )
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for bed in beds:
        _show(bed, arms, options.seeds, options.picture if len(beds) == 1 else None)
    _show_curves(beds, arms, options.seeds)
    return 1 if failed else 0


def _base(options: argparse.Namespace) -> tuple[Path, str]:
    """The config that the arms of a size begin from, and the name of their folder."""
    from experiments.bench.quality.disjoint.bed import prepare
    from experiments.bench.quality.real.bed import prepare_real
    from experiments.bench.quality.same.bed import prepare_same
    from experiments.config.packaged import config_path

    size = options.size
    if size == DISJOINT:
        base = prepare(
            options.out / size, options.texts, options.domains, options.teacher_steps
        )
    elif size == SAME:
        base = prepare_same(options.out / size)
    elif size == REAL:
        base = prepare_real(options.out / size, options.text_count)
    else:
        return config_path(SIZES[size][0]), size
    return base, f"{size}/{base.parent.name}"


def _beds(options: argparse.Namespace, base: Path, name: str) -> list[Any]:
    """What the arms of this size share, for each of the lengths."""
    from experiments.bench.quality.train import Setup

    stores, adapted = options.out / f"{name}-teachers", options.adapting_steps
    return [
        Setup(
            base,
            options.out / f"{name}-{length}",
            length,
            tuple(options.set),
            stores=stores,
            adapting_steps=length // 2 if adapted == HALF else int(adapted),
        )
        for length in options.steps or [SIZES[options.size][1]]
    ]


def _groups(options: argparse.Namespace, base: Path) -> Any:
    """The arms of a size by group, the first one being the default."""
    from experiments.bench.quality.arms import GROUPS
    from experiments.bench.quality.deciding import (
        foreseen,
        ordering_arms,
        selecting_arms,
    )
    from experiments.bench.quality.disjoint.arms import disjoint_arms, tuned_arms
    from experiments.bench.quality.disjoint.domains import EMBEDDED
    from experiments.bench.quality.peers.arms import heard_arms
    from experiments.bench.quality.real.arms import real_arms
    from experiments.bench.quality.same.arms import same_arms

    if options.size == DISJOINT:
        domains = options.domains or list({**EMBEDDED, **options.texts})
        groups = {
            "weighed": disjoint_arms(domains),
            "tuned": tuple(tuned_arms(domains)),
            "selected": selecting_arms(domains, foreseen(domains)),
            "ordered": ordering_arms(domains, foreseen(domains)),
            "heard": heard_arms(domains),
        }
    elif options.size == SAME:
        groups = {"same": same_arms(base.parent)}
    elif options.size == REAL:
        groups = real_arms()
    else:
        return GROUPS
    return groups | {"all": tuple(arm for arms in groups.values() for arm in arms)}


def _show_curves(beds: list[Any], arms: list[Any], seeds: list[int]) -> None:
    from experiments.bench.quality.arm import CE_ONLY
    from experiments.bench.quality.curves import curve_table, curves_of, draw_curves
    from experiments.commands.tables import print_table

    curves = curves_of(beds, arms, seeds)
    if len(curves.get(CE_ONLY, ())) < 2:
        return  # a single length: the table has said it
    alone = {arm.name for arm in arms if arm.alone}
    heads, *rows = curve_table(curves, alone)
    print_table("against CE only, by length", heads, rows, numbers_from=1)
    path = beds[-1].folder / "curves.png"
    draw_curves(curves, path)
    print(f"picture: {path}")


def _show(bed: Any, arms: list[Any], seeds: list[int], picture: Path | None) -> None:
    from experiments.bench.quality import table as of
    from experiments.commands.tables import print_table

    whole = [arm for arm in arms if of.is_whole(bed, arm, seeds)]
    if not whole or whole[0] is not arms[0]:
        print("nothing to compare: the baseline is not trained", file=sys.stderr)
        return
    outcomes = [of.read_outcome(bed, arm, seeds) for arm in whole]
    baseline = outcomes[0]
    heads = ["arm", "seeds", *baseline.domains, "mean"]
    heads += ["against ce, %", "best single, %", "cost", "memory"]
    title = f"{bed.folder.name}: held-out bits per character"
    print_table(title, heads, of.table(outcomes, baseline), numbers_from=1)
    if len(outcomes) > 1:
        picture = picture or bed.folder / "quality.png"
        of.draw(outcomes, baseline, picture)
        print(f"picture: {picture}")
    heads, *rows = of.adapting_table(bed, [outcome.arm for outcome in outcomes])
    if rows:
        print_table("teachers in the student's vocabulary", heads, rows, 2)
    heads, *rows = of.routing_table(outcomes)
    if rows:
        print_table("teacher with the largest weight, tokens", heads, rows, 2)
        routing = bed.folder / "routing.png"
        of.draw_routing(outcomes, routing)
        print(f"picture: {routing}")
    _show_room(bed, outcomes, seeds[0])


def _show_room(bed: Any, outcomes: list[Any], seed: int) -> None:
    from experiments.bench.quality.room import draw_room, room_of, room_table
    from experiments.commands.tables import print_table

    room = room_of(bed, outcomes, seed)
    if room is None:
        return
    heads, *rows = room_table(outcomes, room)
    print_table("what a router could gain, and gained", heads, rows, numbers_from=1)
    path = bed.folder / "room.png"
    draw_room(outcomes, room, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    sys.exit(main())
