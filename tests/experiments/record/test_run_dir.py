import json
from types import SimpleNamespace

import pytest

from experiments.record.run_dir import mean_bpc, read_run


def test_lines_are_those_of_one_kind_and_arm(made_up):
    assert {line["arm"] for line in made_up.lines("train")} == {"main"}
    assert len(list(made_up.lines("train"))) == 5 * 8
    assert len(list(made_up.lines("train", "ce_only"))) == 5 * 8
    assert made_up.phases() == [
        "dual",
        "multi_basic",
        "real_multi",
        "routing",
        "z_space",
    ]


def test_a_run_still_going_on_has_metrics_and_no_summary(made_up):
    (made_up.path / "summary.json").unlink()
    run = read_run(made_up.path)
    assert run.summary == {}
    assert run.phases()[-1] == "z_space"


def test_a_last_line_cut_short_is_left_out(made_up):
    path = made_up.path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "tr')
    assert len(read_run(made_up.path).metrics) == len(made_up.metrics)


def test_a_damaged_line_is_named_and_the_others_are_read(made_up):
    path = made_up.path / "metrics.jsonl"
    path.write_text('{"kind": "tr\n' + path.read_text())
    run = read_run(made_up.path)
    assert run.metrics == made_up.metrics
    (fault,) = run.faults
    assert f"{path}: line 1 is not as written" in fault


def test_what_a_run_has_written_and_is_not_there_is_missed(made_up):
    assert made_up.faults == ()
    (made_up.path / "run.json").write_text("{}")
    (made_up.path / "state.json").write_text('{"finished": true}')
    (made_up.path / "summary.json").unlink()
    (made_up.path / "config.yaml").unlink(missing_ok=True)
    config, summary = read_run(made_up.path).faults
    assert config == f"{made_up.path / 'config.yaml'} is missing"
    assert f"{made_up.path / 'summary.json'} is missing" in summary
    assert "`mtkd train" in summary


def test_what_is_no_run_is_refused(tmp_path, made_up):
    with pytest.raises(ValueError, match=r"nope does not exist"):
        read_run(tmp_path / "nope")
    (made_up.path / "config.yaml").touch()
    with pytest.raises(ValueError, match=f"give its folder, {made_up.path}"):
        read_run(made_up.path / "summary.json")
    (tmp_path / "log.txt").touch()
    with pytest.raises(ValueError, match=r"is a file and no run's folder; (it|there)"):
        read_run(tmp_path / "log.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither metrics\.jsonl nor"):
        read_run(tmp_path / "empty")
    (made_up.path / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged .*writes it anew"):
        read_run(made_up.path)
    copied = made_up.path.rename(tmp_path / "a copy")
    (copied / "config.yaml").write_text("run: {dir: runs, name: first}")
    place = rf"train '.*a copy/config\.yaml' run\.dir={tmp_path} 'run\.name=a copy'`"
    with pytest.raises(ValueError, match=place):
        read_run(copied)
    (copied / "config.yaml").write_text(f"run: {{dir: {tmp_path}, name: a copy}}")
    with pytest.raises(ValueError, match=r"train '.*a copy/config\.yaml'` writes"):
        read_run(copied)
    made_up = SimpleNamespace(path=copied)
    (made_up.path / "summary.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="holds no JSON object"):
        read_run(made_up.path)


def test_the_mean_is_over_measured_domains():
    assert mean_bpc({"a": 1.0, "b": 2.0}) == 1.5
    assert mean_bpc({}) is None
    assert mean_bpc(None) is None
