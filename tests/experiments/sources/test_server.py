"""A run whose teacher is served over HTTP."""

import json
import os
import signal

import pytest

from experiments.cli import main
from tests.experiments.small_runs import said, small_config
from tests.teacher.served.conftest import NAME, loaded, served

__all__ = ["loaded", "served"]

TEACHER = "gpt2-prose"
SILENT = {"lambda_k": 0, "lambda_v": 0, "beta_cos": 0, "gamma_kl": 0}


def losses(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["terms"] for row in rows if row["kind"] == "train"]


def taught(entry):
    output = {"likelihood": 1, "teachers": {"likelihood": [TEACHER]}}
    phase = {"all": {"loss": SILENT, "output": output}}
    return {"teachers": {TEACHER: entry}, "phase": phase}


@pytest.fixture
def config(tmp_path, tiny_zoo, served):
    """One served teacher that teaches by likelihood; kept answers beside the run."""
    options = {
        "tokenizer": str(tiny_zoo[TEACHER]),
        "served_as": NAME,
        "cache": str(tmp_path / "served"),
        "budget_s": 1.0,
    }
    entry = {"model": f"server:{served.url}", "options": options}
    return str(small_config(tmp_path, tiny_zoo, taught(entry)))


@pytest.mark.slow
def test_it_learns_what_a_run_with_the_live_teacher_learns_and_replays_offline(
    config, tmp_path, tiny_zoo, served, capsys
):
    assert said(["train", config, "run.name=online"], capsys) == (0, "")
    texts = [ids for ids in served.asked if len(ids) > 1]
    assert len(set(texts)) == len(texts) > 4
    served.shutdown()
    offline = f"teachers.{TEACHER}.options.offline=true"
    assert said(["train", config, "run.name=offline", offline], capsys) == (0, "")
    assert losses(tmp_path / "offline") == losses(tmp_path / "online")
    live = {"model": str(tiny_zoo[TEACHER])}
    path = small_config(tmp_path, tiny_zoo, taught(live))
    assert said(["train", str(path), "run.name=live"], capsys) == (0, "")
    for one, other in zip(
        losses(tmp_path / "online"), losses(tmp_path / "live"), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-5) and "likelihood" in one


@pytest.mark.slow
def test_a_server_that_is_gone_ends_the_run_in_one_line_and_it_goes_on_later(
    config, served, capsys
):
    served.faults.extend([None, None, None, *["gone"] * 1000])
    code, message = said(["train", config], capsys)
    assert code and "gave no whole answer within 1 s" in message
    assert "asks for nothing that was answered" in message
    failed = 1000 - len(served.faults)
    answered = served.asked[1 : len(served.asked) - failed]
    served.faults.clear()
    began = len(served.asked)
    assert said(["train", config], capsys) == (0, "")
    assert not set(answered) & set(served.asked[began + 1 :])


@pytest.mark.slow
def test_what_was_trained_before_a_server_went_is_kept_and_no_bit_changes(
    config, tmp_path, served, capsys
):
    apart = f"teachers.{TEACHER}.options.cache={tmp_path / 'apart'}"
    assert said(["train", config, "run.name=whole", apart], capsys) == (0, "")
    count = len(served.asked)
    served.faults.extend([None] * (count - 2) + ["gone"] * 1000)  # in the last step
    assert said(["train", config], capsys)[0]
    served.faults.clear()
    (kept,) = (tmp_path / "run").glob("phases/*.checkpoint/*/")
    assert kept.name.endswith("1")  # of two steps, with none that was due
    assert said(["train", config], capsys) == (0, "")
    whole, resumed = (tmp_path / n / "student" for n in ("whole", "run"))
    name = "model.safetensors"
    assert (whole / name).read_bytes() == (resumed / name).read_bytes()


def test_a_term_on_keys_and_values_without_another_teacher_is_refused_by_name(
    config, capsys
):
    words = ["phase.all.loss.lambda_k=1", "phase.all.teachers={max: 1, min: 1}"]
    code, message = said(["train", config, "run.name=refused", *words], capsys)
    assert code == 2 and "is asked over HTTP, which shows outputs alone" in message


@pytest.mark.slow
def test_a_run_killed_while_it_asks_is_answered_nothing_twice_and_ends_as_if_unbroken(
    config, tmp_path, served, capsys, warm
):
    alone = f"teachers.{TEACHER}.options.requests=1"
    every = [f"train.{word}" for word in ("steps=4", "checkpoint_every=1")]
    apart = f"teachers.{TEACHER}.options.cache={tmp_path / 'apart'}"
    words = ["train", config, alone, *every]
    assert said([*words, "run.name=whole", apart], capsys) == (0, "")
    count, began = len(served.asked), len(served.asked)
    process = None

    def kill():
        if len(served.asked) == began + count - 3:  # amid the last step's texts
            os.kill(process.pid, signal.SIGKILL)

    served.heard = kill
    process = warm.start("experiments.cli:main", *words, log=tmp_path / "log.txt")
    assert process.wait(timeout=120) == -signal.SIGKILL
    served.heard = None
    broken = served.asked[began + 1 :]  # after the probe of its tokenizer
    again = len(served.asked) + 1
    assert main(words) == 0
    assert broken[-1] in served.asked[again:]  # it was asked, and not answered
    assert not {*broken[:-1]} & {*served.asked[again:]}
    assert {*broken, *served.asked[again:]} == {*served.asked[1:began]}
    whole, resumed = (tmp_path / n / "student" for n in ("whole", "run"))
    name = "model.safetensors"
    assert (whole / name).read_bytes() == (resumed / name).read_bytes()
