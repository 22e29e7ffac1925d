"""``mtkd sweep``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.commands.output import lasting_output
from experiments.commands.parser import (
    CONFIG_OPTIONS,
    STOPPED,
    Command,
    count,
    option,
    with_plugins,
)
from experiments.commands.tables import print_table

if TYPE_CHECKING:
    from experiments.sweep.plan import Sweep
    from experiments.sweep.table import Row

SOME_FAILED = 3
"""Exit code where trials failed, and all others were trained."""


def sweep(options: Namespace) -> int:
    """Train a config under several settings, and say which is the best."""
    from align.errors import InputError
    from experiments.config.packaged import config_path
    from experiments.config.presets import load_registry
    from experiments.sweep.plan import Sought, begin, check_begun, plan_sweep
    from experiments.sweep.space import read_once, read_space
    from student.loop.launch import launched_world

    if launched_world() > 1:
        raise InputError(
            "a launcher has started several processes of one sweep; start `mtkd sweep` "
            "alone, as often as there are machines: they share its trials"
        )
    source, overrides = options.config, list(options.overrides)
    if source is not None and "=" in source and not Path(source).exists():
        source, overrides = None, [source, *overrides]
    given = read_once(None if source is None else config_path(source))
    sought = Sought(
        by=options.by,
        search=options.search,
        trials=options.trials,
        pareto=tuple(name for name in (options.pareto or "").split(",") if name),
        min_steps=options.min_steps,
        reduction=options.reduction,
        seed=options.draw,
    )
    planned = plan_sweep(
        given,
        read_space(given, overrides),
        sought,
        registry_of=load_registry,
        name=options.name,
        change=lambda config: with_plugins(config, options),
    )
    if options.dry_run:
        check_begun(planned)
        return _tell(planned)
    begin(planned)
    return _train(planned, options.retry_failed)


@lasting_output("the sweep")
def _train(planned: Sweep, retry_failed: bool) -> int:
    from experiments.record.stop import stop_on_signals
    from experiments.sweep.picture import draw_sweep
    from experiments.sweep.table import check_measured, rows_of
    from experiments.sweep.worker import run_sweep

    with stop_on_signals() as stop:
        stopped = run_sweep(planned, stop, retry_failed=retry_failed)
    rows = rows_of(planned)
    _show(planned, rows)
    picture = draw_sweep(planned)
    print(f"table: {planned.folder / 'table.md'}; picture: {picture or 'none yet'}")
    if stopped:
        return STOPPED
    failed = [trial for trial in planned.trials if trial.state == "failed"]
    for trial in failed:
        print(f"failed: {trial.name}: {trial.noted().get('error')}")
    if failed:
        print("the same command with --retry-failed trains them again")
    check_measured(planned)
    return SOME_FAILED if failed else 0


def _show(planned: Sweep, rows: list[Row]) -> None:
    from experiments.sweep.table import heads_of, legend, shown_rows

    keys = {key for trial in planned.trials for key, _ in trial.group}
    title = f"{planned.folder}: {legend(planned, rows)}"
    cells = shown_rows(planned, rows)
    print_table(title, heads_of(planned), cells, numbers_from=1 + len(keys))


def _tell(planned: Sweep) -> int:
    """Say what would be trained."""
    rows = [
        [trial.name, trial.state, " ".join(f"{k}={v}" for k, v in trial.settings)]
        for trial in planned.trials
    ]
    print_table(f"{planned.folder}", ["trial", "state", "settings"], rows)
    fixed = " ".join(planned.space.fixed)
    print(f"all of them: {fixed or 'as the config says'}")
    if planned.rungs is not None:
        steps = ", ".join(map(str, planned.rungs.steps))
        print(
            f"compared after {steps} of {planned.rungs.whole} steps; each time one in "
            f"{planned.rungs.reduction} goes on from where it stands"
        )
    first = planned.trials[0].config
    if first.baselines.ce_only or first.baselines.single_teachers != "none":
        print(
            "every trial trains its baselines, too; baselines.ce_only=false "
            "baselines.single_teachers=none leaves them out"
        )
    return 0


SWEEP = Command(
    name="sweep",
    action=sweep,
    what="train a config under several settings, each a run of its own that is not "
    "done twice, and show which is the best",
    examples=(
        (
            "mtkd sweep my.yaml train.learning_rate=[0.001,0.003] seed=[0,1,2] "
            "--by bits_per_char",
            "a grid; seeds are averaged",
        ),
        (
            "mtkd sweep my.yaml loss.lambda_k=[0,0.1,1] train.steps=200 --by "
            "bits_per_char --dry-run",
            "see the trials; settings with one value are of all of them",
        ),
        (
            "mtkd sweep my.yaml 'train.learning_rate={low: 0.0001, high: 0.01, log: "
            "true}' --search random --trials 20 --by bits_per_char:code",
            "drawn from a range; judged by one domain",
        ),
        (
            "mtkd sweep my.yaml fuse.temperature=[0.3,1,3] 'eval.use=[calibration, "
            "size]' --by calibration_error --pareto calibration_error,parameters",
            "any metric of eval.use, and the front between two",
        ),
        (
            "mtkd sweep my.yaml phases=[single] train.steps=900 "
            "train.learning_rate=[0.0003,0.001,0.003] --search halving --by "
            "bits_per_char",
            "all for 100 steps, the best third on to 300, the best of these to 900",
        ),
        (
            "mtkd sweep my.yaml 'phases=[[single],[dual]]' --by bits_per_char",
            "a setting that takes a list is tried by a list of lists",
        ),
    ),
    options=(
        *CONFIG_OPTIONS,
        option(
            "--by",
            required=True,
            metavar="METRIC",
            help="what decides: a metric of eval.use, METRIC:PART for one domain or "
            "part in place of the mean over all",
        ),
        option(
            "--search",
            choices=("grid", "random", "halving"),
            default="grid",
            help="every combination (grid), --trials of them (random), or all of them "
            "a little way and the better ones on from there (halving)",
        ),
        option(
            "--trials",
            type=count,
            metavar="N",
            help="combinations to draw, each trained with every seed; a halving takes "
            "all without it",
        ),
        option(
            "--pareto",
            metavar="A,B",
            help="also mark the settings that no others beat by both of these metrics",
        ),
        option(
            "--min-steps",
            type=count,
            metavar="N",
            help="steps before a halving first compares (the whole over the square of "
            "--reduction)",
        ),
        option(
            "--reduction",
            type=count,
            metavar="N",
            help="of how many settings a halving lets one go on, and how many times "
            "farther (3)",
        ),
        option(
            "--draw",
            type=int,
            metavar="SEED",
            help="seed of what is drawn (0); the same draws the same trials",
        ),
        option(
            "--name",
            metavar="NAME",
            help="folder of the sweep beside runs (the config's name and -sweep)",
        ),
        option(
            "--retry-failed",
            action="store_true",
            help="train again what failed before",
        ),
        option(
            "--dry-run",
            action="store_true",
            help="show the trials and where they stand; train and write nothing",
        ),
    ),
)
