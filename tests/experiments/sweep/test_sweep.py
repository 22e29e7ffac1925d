"""Trials of a sweep by a trainer that only pretends, and once by the real one."""

import json
import statistics
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.config.presets import BuiltinPhases, load_registry
from experiments.record.history import STATE, read_json, write_json
from experiments.record.lease import LEASE, this_process
from experiments.record.run_dir import METRICS, SUMMARY
from experiments.record.stop import StopRequest
from experiments.record.summed_log import SummedLog
from experiments.sweep import worker
from experiments.sweep.halving import survivors
from experiments.sweep.plan import Sought, begin, plan_sweep
from experiments.sweep.space import read_once, read_space
from experiments.sweep.table import check_measured, rows_of, shown_rows
from experiments.sweep.trials import measured
from experiments.sweep.worker import LOCKS, run_sweep
from plugins import PluginError, Registry, hookimpl
from tests.experiments.small_runs import small_config
from tests.plugins.broken.matches import Good


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture
def config(tmp_path):
    names = ("student", "gpt2-prose", "qwen-code")
    return small_config(tmp_path, {name: f"./{name}" for name in names})


@pytest.fixture
def planned(config, registry, monkeypatch):
    monkeypatch.setattr("experiments.sweep.worker.save_config", lambda *_: None)

    def plan(*words, **sought):
        wanted = Sought(**{"by": "bits_per_char"} | sought)
        given = read_once(config)
        sweep = plan_sweep(
            given,
            read_space(given, words),
            wanted,
            registry_of=lambda _: registry,
            name="swept",
        )
        begin(sweep)
        CONFIGS.update({trial.name: trial.config for trial in sweep.trials})
        return sweep

    return plan


CONFIGS = {}
"""Of trials, so that nothing reads them from their files."""


class Pretended:
    """Trains nothing: bits are what ``bits`` says of a config and its steps."""

    def __init__(self, bits, breaks=lambda config: False):
        self.bits, self.breaks = bits, breaks
        self.calls = []

    def __call__(self, file: Path, log: Path, pause_after, stop) -> int:
        config = CONFIGS[file.stem]
        self.calls.append((config.run.name, pause_after))
        log.parent.mkdir(parents=True, exist_ok=True)
        if self.breaks(config):
            log.write_text("step 1\nmtkd: error: it broke\n")
            return 2
        steps = pause_after or config.train.steps
        bits = {"prose": self.bits(config, steps), "code": self.bits(config, steps)}
        config.run_dir.mkdir(parents=True, exist_ok=True)
        if pause_after is not None:
            line = {"kind": "watch", "step": steps, "metrics": {"bits_per_char": bits}}
            SummedLog(config.run_dir / METRICS).append({"arm": "main", **line})
            return 75
        phase = {"name": "dual", "bpc": bits, "metrics": {"parameters": {"all": 9.0}}}
        summary = {"phases": [phase], "final_phase": "dual"}
        write_json(config.run_dir / SUMMARY, summary)
        write_json(config.run_dir / STATE, {"finished": True})
        return 0


def rate_and_seed(config, _steps):
    return 2 + config.train.learning_rate + 0.1 * config.run.seed


def test_seeds_are_averaged_and_nothing_is_done_twice(planned):
    sweep = planned("train.learning_rate=[0.5, 0.25]", "seed=[0, 1]")
    train = Pretended(rate_and_seed)
    assert run_sweep(sweep, StopRequest(), train) is False
    assert len(train.calls) == 4
    rows = rows_of(sweep)
    assert [dict(row.settings)["train.learning_rate"] for row in rows] == [0.25, 0.5]
    assert [row.best for row in rows] == [True, False]
    values = [2.25, 2.35]
    cell = rows[0].cells["bits_per_char"]
    assert cell.mean == pytest.approx(statistics.fmean(values))
    assert cell.sd == pytest.approx(statistics.stdev(values))
    assert shown_rows(sweep, rows)[0][:4] == ["*", "0.25", "2.3 ± 0.071", "2 done"]
    run_sweep(sweep, StopRequest(), train)
    assert len(train.calls) == 4
    more = planned("train.learning_rate=[0.5, 0.25, 0.125]", "seed=[0, 1]")
    run_sweep(more, StopRequest(), train)
    assert len(train.calls) == 6
    ledger = read_json(more.folder / "ledger.json")
    assert len(ledger["trials"]) == 6
    assert {trial["state"] for trial in ledger["trials"]} == {"done"}
    assert ledger["rows"][0]["settings"] == {"train.learning_rate": 0.125}


def test_a_failed_trial_is_told_and_the_others_are_trained(planned):
    sweep = planned("train.learning_rate=[0.5, 0.25]", "seed=[0, 1]")
    broken = Pretended(
        rate_and_seed, lambda c: c.train.learning_rate == 0.25 and c.run.seed == 1
    )
    run_sweep(sweep, StopRequest(), broken)
    assert [trial.state for trial in sweep.trials].count("failed") == 1
    failed = next(trial for trial in sweep.trials if trial.state == "failed")
    assert failed.noted()["error"] == "exit code 2: mtkd: error: it broke"
    rows = rows_of(sweep)  # half of a row is not the best of whole ones
    assert [row.best for row in rows] == [True, False]
    assert dict(rows[0].settings)["train.learning_rate"] == 0.5
    assert shown_rows(sweep, rows)[1][3] == "1 done, 1 failed"
    mended = Pretended(rate_and_seed)
    run_sweep(sweep, StopRequest(), mended)
    assert mended.calls == []
    run_sweep(sweep, StopRequest(), mended, retry_failed=True)
    assert mended.calls == [(failed.name, None)]
    assert rows_of(sweep)[0].cells["bits_per_char"].mean == pytest.approx(2.3)


def test_halving_goes_on_with_the_better_ones_from_where_they_stand(planned):
    rates = [0.5, 0.1, 0.4, 0.3, 0.2, 0.6]
    sweep = planned(
        f"train.learning_rate={rates}", "train.steps=40", search="halving", reduction=2
    )
    assert sweep.rungs.steps == (10, 20)
    assert {trial.config.eval.every for trial in sweep.trials} == {10}

    def crossing(config, steps):  # the best at first is the worst of three later
        rate = config.train.learning_rate
        return 3 + rate if steps == 10 or rate != 0.1 else 9.0

    train = Pretended(crossing)
    run_sweep(sweep, StopRequest(), train)
    called = {
        steps: [float(n.rpartition("-")[2]) for n, s in train.calls if s == steps]
        for steps in (10, 20, None)
    }
    assert called == {10: rates, 20: [0.1, 0.2, 0.3], None: [0.2]}
    rows = rows_of(sweep)
    places = [
        (row.paused_at, dict(row.settings)["train.learning_rate"]) for row in rows
    ]
    assert places[:4] == [(None, 0.2), (20, 0.3), (20, 0.1), (10, 0.4)]
    assert [row.best for row in rows] == [True] + 5 * [False]
    assert shown_rows(sweep, rows)[1][-2] == "paused at 20"


def test_of_those_with_a_number_one_in_so_many_goes_on():
    values = {"a": 3.0, "b": None, "c": None, "d": 2.0, "e": 4.0, "f": 5.0}
    assert survivors(values, 2, lower=True) == ["d", "a", "e"]
    assert survivors(values, 2, lower=False) == ["f", "e", "a"]
    assert survivors({"a": 3.0, "b": 2.0}, 3, lower=True) == ["b"]
    assert survivors({"a": None}, 2, lower=True) == []


def test_workers_share_trials_and_none_is_trained_twice(planned):
    sweep = planned("train.learning_rate=[0.1, 0.2, 0.3]")
    inner = Pretended(rate_and_seed)

    class Outer(Pretended):
        def __call__(self, file, log, pause_after, stop):
            run_sweep(sweep, StopRequest(), inner)  # another worker, meanwhile
            return super().__call__(file, log, pause_after, stop)

    outer = Outer(rate_and_seed)
    run_sweep(sweep, StopRequest(), outer)
    names = [name for name, _ in outer.calls + inner.calls]
    assert [name for name, _ in outer.calls] == ["learning-rate-0.1"]
    assert sorted(names) == [
        "learning-rate-0.1",
        "learning-rate-0.2",
        "learning-rate-0.3",
    ]


def test_a_dead_worker_leaves_its_trial_to_others(planned):
    sweep = planned("train.learning_rate=[0.1, 0.2]")
    first = sweep.trials[0]
    first.write_note(state="started", tries=1)
    folder = sweep.folder / LOCKS / first.name
    folder.mkdir(parents=True)
    dead = {"token": "x", **this_process(), "pid": 2**22 + 1, "started": "1"}
    (folder / LEASE).write_text(json.dumps(dead))
    train = Pretended(rate_and_seed)
    run_sweep(sweep, StopRequest(), train)
    assert len(train.calls) == 2
    assert first.noted()["tries"] == 2


def test_what_another_worker_has_done_meanwhile_is_not_done_again(planned):
    sweep, train = planned("train.learning_rate=[0.1, 0.2]"), Pretended(rate_and_seed)
    known_before = worker._jobs(sweep, None)
    run_sweep(sweep, StopRequest(), train)
    assert worker._one_of(sweep, known_before[:1], train, StopRequest())
    assert len(train.calls) == 2


def test_a_trial_that_outlived_its_worker_is_left_alone(planned):
    sweep, train = planned("train.learning_rate=[0.1, 0.2]"), Pretended(rate_and_seed)
    orphan = sweep.trials[0].run_dir
    orphan.mkdir(parents=True)
    (orphan / LEASE).write_text(json.dumps({"token": "x", **this_process()}))
    run_sweep(sweep, StopRequest(), train)
    assert train.calls == [("learning-rate-0.2", None)]


def test_nothing_is_the_best_where_no_row_is_whole(planned):
    sweep = planned("train.learning_rate=[0.1]", "seed=[0, 1]")
    run_sweep(sweep, StopRequest(), Pretended(rate_and_seed, lambda c: c.run.seed == 1))
    (row,) = rows_of(sweep)
    assert row.cells["bits_per_char"].mean == pytest.approx(2.1)
    assert not row.best


def test_a_worker_that_is_asked_to_leave_leaves_a_trial_that_goes_on(planned):
    sweep, stop = planned("train.learning_rate=[0.1, 0.2]"), StopRequest()

    def asked(_file, _log, _pause_after, stop):
        stop.signal = "SIGTERM"
        return 75

    assert run_sweep(sweep, stop, asked) is True
    assert [trial.state for trial in sweep.trials] == ["stopped", "new"]
    train = Pretended(rate_and_seed)
    run_sweep(sweep, StopRequest(), train)
    assert len(train.calls) == 2


def test_a_front_holds_what_nobody_beats_by_both(planned):
    sweep = planned(
        "train.learning_rate=[0.1, 0.2, 0.3]",
        "eval.use=[size]",
        pareto=("bits_per_char", "parameters"),
    )
    sizes = {0.1: 30.0, 0.2: 40.0, 0.3: 20.0}

    class Sized(Pretended):
        def __call__(self, file, log, pause_after, stop):
            code = super().__call__(file, log, pause_after, stop)
            config = CONFIGS[file.stem]
            summary = read_json(config.run_dir / SUMMARY)
            part = {"all": sizes[config.train.learning_rate]}
            summary["phases"][0]["metrics"]["parameters"] = part
            write_json(config.run_dir / SUMMARY, summary)
            return code

    run_sweep(sweep, StopRequest(), Sized(rate_and_seed))
    marks = [row[0] for row in shown_rows(sweep, rows_of(sweep))]
    assert marks == ["*P", "", "P"]
    assert "parameters" in (sweep.folder / "table.md").read_text()


@pytest.mark.parametrize(
    ("words", "sought", "message"),
    [
        (["train.steps=[1, 2]"], {"by": "chrf"}, "--by is 'chrf', which nothing in"),
        (["train.steps=[1, 2]"], {"pareto": ("bits_per_char", "x")}, "--pareto is 'x'"),
        (["train.steps=[1, -1]"], {}, "trial steps--1: train.steps"),
        (["train.steps=[1, 2]"], {"search": "random"}, "needs --trials N"),
        (["train.steps=[1, 2]"], {"trials": 3}, "a grid has all of its values"),
        (["train.steps=[9, 12]"], {"search": "halving"}, "at equal steps"),
        (["train.steps=[9, 12]"], {"reduction": 3}, "--reduction is 3, but"),
        (["train.steps=[9, 12]"], {"min_steps": 3}, "--min-steps is 3, but"),
        (["train.steps=[9, 12]"], {"seed": 0}, "--draw is 0, but nothing is drawn"),
        (["train.steps=[9, 12]", "student.transform.nobody={}"], {}, "called 'nobody'"),
        (["train.steps=[9, 12]", "data.written.by=nobody"], {}, "nobody is called so"),
        (
            ["run.seed=[0, 1]", "phases=[single, dual]"],
            {"search": "halving"},
            "has 2 phases",
        ),
        (["run.seed=[0, 1]"], {"search": "halving", "min_steps": 2}, "has 2 steps"),
        (["run.seed=[0, 1]"], {"search": "halving", "reduction": 1}, "give 2 or more"),
        (
            ["run.seed=[0, 1]", "eval.use=[diversity]"],
            {"by": "oracle_saving"},
            "measured of teachers, not of a",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    planned, words, sought, message, config
):
    with pytest.raises(ValueError, match=message):
        planned(*words, **sought)
    assert not (config.parent / "swept").exists()


def test_trials_of_two_configs_or_metrics_are_not_mixed(planned, config):
    planned("train.learning_rate=[0.1, 0.2]")
    with pytest.raises(ValueError, match="a sweep of another config; trials of both"):
        planned("train.learning_rate=[0.1, 0.2]", "train.steps=3")
    with pytest.raises(ValueError, match="and tried settings; trials of both"):
        planned("loss.lambda_k=[0.1, 0.2]")


def test_a_plugin_that_breaks_its_contract_is_told_before_the_first_trial(config):
    class Far(Good):
        def __call__(self, pred, target, weight):
            return -super().__call__(pred, target, weight)

    class Acme:
        __name__ = "acme"

        @hookimpl
        def distances(self):
            return {"it": Far}

    registry = Registry.load([BuiltinPhases(), Acme()], entry_points=False)
    term = "loss.terms={m: {use: match, distance: it}}"
    given = read_once(config)
    space = read_space(given, ["train.learning_rate=[0.1, 0.2]", term])
    with pytest.raises(PluginError, match=r"rate-0\.1: .*it"):
        plan_sweep(
            given, space, Sought(by="bits_per_char"), registry_of=lambda _: registry
        )


def test_a_trial_of_another_seed_is_not_taken_for_this_one(planned):
    sweep = planned("train.learning_rate=[0.1, 0.2]", "run.seed=0")
    run_sweep(sweep, StopRequest(), Pretended(rate_and_seed))
    planned("train.learning_rate=[0.1, 0.2]", "run.seed=0")
    with pytest.raises(ValueError, match=r"run\.seed is 7, but was 0 in what"):
        planned("train.learning_rate=[0.1, 0.2]", "run.seed=7")
    sweep.trials[0].note.write_text('{"settings": {"train.learning_rate": -0.1}}')
    with pytest.raises(ValueError, match=r"rate is 0\.1, but was -0\.1 in what"):
        planned("train.learning_rate=[0.1, 0.2]", "run.seed=0")
    sweep.trials[0].note.unlink()  # then the run itself tells
    (sweep.trials[0].run_dir / "config.yaml").write_text("run: {seed: 3}")
    with pytest.raises(ValueError, match=r"run\.seed is 0, but was 3 in what"):
        planned("train.learning_rate=[0.1, 0.2]", "run.seed=0")


def test_a_failed_trial_leaves_a_halving_and_an_earlier_number_is_not_its(planned):
    sweep = planned(
        "train.learning_rate=[0.1, 0.2, 0.3, 0.4]",
        "train.steps=40",
        search="halving",
        reduction=2,
    )

    class Broken(Pretended):
        def __call__(self, file, log, pause_after, stop):
            rate = CONFIGS[file.stem].train.learning_rate
            if rate == 0.1 and pause_after == 20:
                self.calls.append((file.stem, pause_after))
                return 2  # ahead at 10, and its number of that step stands
            return super().__call__(file, log, pause_after, stop)

    train = Broken(rate_and_seed)
    run_sweep(sweep, StopRequest(), train)
    assert train.calls[-1] == ("learning-rate-0.2", None)
    assert len(train.calls) == 4 + 2 + 1
    assert measured(sweep.trials[0], 10) and not measured(sweep.trials[0], 20)
    run_sweep(sweep, StopRequest(), train)
    assert len(train.calls) == 7


def test_a_row_of_which_a_seed_has_no_number_is_not_the_best(planned):
    sweep = planned("train.learning_rate=[0.1, 0.2]", "seed=[0, 1]")

    def rolled_back(config, steps):
        nothing = config.train.learning_rate == 0.1 and config.run.seed == 1
        return float("nan") if nothing else rate_and_seed(config, steps)

    run_sweep(sweep, StopRequest(), Pretended(rolled_back))
    rows = rows_of(sweep)
    assert [row.best for row in rows] == [True, False]
    assert dict(rows[1].settings)["train.learning_rate"] == 0.1
    assert shown_rows(sweep, rows)[1][2] == "2.1 (1 of 2)"


@pytest.mark.parametrize("search", ["grid", "halving"])
def test_a_sweep_without_a_number_ends_with_an_error(planned, search):
    words = ("train.learning_rate=[0.1, 0.2]", "train.steps=40")
    sweep = planned(*words, by="bits_per_char:cod", search=search)
    train = Pretended(rate_and_seed)
    with pytest.raises(ValueError, match="no trial has that part; bits_per_char has "):
        run_sweep(sweep, StopRequest(), train)
    assert len(train.calls) == 1  # no other trial is trained for nothing
    with pytest.raises(ValueError, match="no trial has that part; bits_per_char has "):
        check_measured(sweep)


def test_a_sweep_over_texts_goes_on_where_the_first_lacks_a_part(planned):
    """Its trials are measured in other domains."""
    sweep = planned("data.max_length=[32, 64]", by="bits_per_char:cod")
    train = Pretended(rate_and_seed)
    run_sweep(sweep, StopRequest(), train)
    assert len(train.calls) == 2
    with pytest.raises(ValueError, match="no trial has that part; bits_per_char has "):
        check_measured(sweep)


def test_a_grid_that_is_trained_is_judged_anew_by_another_metric(planned):
    sweep = planned("train.learning_rate=[0.1, 0.2]", by="bits_per_char:cod")
    train = Pretended(rate_and_seed)
    with pytest.raises(ValueError, match="trained trials are kept"):
        run_sweep(sweep, StopRequest(), train)
    again = planned("train.learning_rate=[0.1, 0.2]", by="bits_per_char:code")
    run_sweep(again, StopRequest(), train)
    assert len(train.calls) == 2
    check_measured(again)


def test_a_halving_without_finite_numbers_ends_with_an_error(planned):
    words = ("train.learning_rate=[0.1, 0.2]", "train.steps=40")
    sweep = planned(*words, search="halving")
    run_sweep(sweep, StopRequest(), Pretended(lambda *_: float("inf")))
    with pytest.raises(ValueError, match="none of the 2 trials that came so far"):
        check_measured(sweep)


def test_a_worker_whose_trial_was_taken_over_notes_nothing(planned):
    sweep = planned("train.learning_rate=[0.1]")

    def taken(_file, _log, _pause_after, stop):
        lease = sweep.folder / LOCKS / sweep.trials[0].name / LEASE
        lease.write_text(json.dumps({"token": "x", **this_process()}))
        return 2

    run_sweep(sweep, StopRequest(), taken)
    assert sweep.trials[0].state == "started"


def test_a_run_is_no_folder_for_a_sweep(planned, config):
    (config.parent / "swept").mkdir()
    (config.parent / "swept" / "config.yaml").write_text("{}")
    with pytest.raises(ValueError, match="is a run's folder; give the sweep another"):
        planned("train.learning_rate=[0.1, 0.2]")


def test_a_dry_run_shows_trials_and_writes_nothing(config, capsys):
    words = ["sweep", str(config), "train.steps=[2, 4]", "--by", "bits_per_char"]
    before = sorted(config.parent.iterdir())
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "steps-2" in shown and "steps-4" in shown
    assert sorted(config.parent.iterdir()) == before
    assert main([*words[:-1], "nothing", "--dry-run"]) == 2
    assert "It measures bits_per_char" in capsys.readouterr().err
    assert main([*words, "--name", "../up", "--dry-run"]) == 2
    assert "--name is '../up'; give one folder's name" in capsys.readouterr().err


@pytest.mark.slow
def test_a_halved_sweep_leaves_what_training_in_one_go_leaves(
    tiny_zoo, tmp_path, registry
):
    from experiments.sweep.picture import draw_sweep

    config = small_config(tmp_path, tiny_zoo)
    words = ["train.steps=4", "train.learning_rate=[0.01, 0.00001]"]

    def train(file, log, pause_after, stop):
        pause = [] if pause_after is None else ["--pause-after", str(pause_after)]
        return main(["train", str(file), *pause])

    sought = Sought(by="bits_per_char", search="halving", min_steps=2, reduction=2)
    given = read_once(config)
    space = read_space(given, words)
    sweep = plan_sweep(given, space, sought, registry_of=lambda _: registry)
    begin(sweep)
    run_sweep(sweep, StopRequest(), train)
    assert sorted(trial.state for trial in sweep.trials) == ["done", "paused"]
    assert draw_sweep(sweep).stat().st_size > 10_000
    best = next(trial for trial in sweep.trials if trial.state == "done")
    rate = dict(best.settings)["train.learning_rate"]
    plain = [f"train.learning_rate={rate}", "train.steps=4", "eval.every=2"]
    assert main(["train", str(config), *plain]) == 0
    whole = tmp_path / "run" / "student" / "model.safetensors"
    halved = best.run_dir / "student" / "model.safetensors"
    assert halved.read_bytes() == whole.read_bytes()
