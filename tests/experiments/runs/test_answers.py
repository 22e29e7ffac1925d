"""Arms that read the same texts ask a teacher once, and learn the same from it."""

import json

import pytest

from experiments.cli import main
from teacher.answers import Answers
from teacher.live_teacher import LiveTeacher
from tests.experiments.small_runs import said, small_config

SOME = 400_000 / 2**30
"""Room for some of the batches of such a run, and not for all."""


def losses(folder):
    """Of every arm and step, each loss and what was measured in the end."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        (row["arm"], row["phase"], row["step"], row.get("terms") or row.get("bpc"))
        for row in rows
        if row["kind"] in ("train", "eval")
    ]


@pytest.mark.slow
def test_a_run_learns_the_same_from_answers_that_were_kept(
    tiny_zoo, tmp_path, capsys, monkeypatch
):
    asked, files, ask, written = [], [], LiveTeacher.ask, Answers._written

    def counted(self, *given):
        asked.append(self.name)
        return ask(self, *given)

    def noted(self, *given):
        files.append(given[-1])
        return written(self, *given)

    monkeypatch.setattr(LiveTeacher, "ask", counted)
    monkeypatch.setattr(Answers, "_written", noted)
    counts, numbers = {}, {}
    settings = {"none": {"keep": "none"}, "kept": {"memory_gib": SOME}}
    for run, answers in settings.items():
        changes = {
            "run": {"name": run},
            "phases": ["dual", "routing"],
            "phase": {"routing": {"teachers": {"min": 2}}},
            "output": {"projected_kl": 1},
            "baselines": {"ce_only": False, "single_teachers": "all"},
            "samples": {"prompts": 0},
            "answers": answers,
        }
        asked.clear()
        path = small_config(tmp_path, tiny_zoo, changes)
        assert said(["train", str(path)], capsys) == (0, "")
        counts[run], numbers[run] = len(asked), losses(tmp_path / run)
        assert bool(files) == (run == "kept")
        assert not list((tmp_path / run).glob("answers*"))
    assert numbers["none"] == numbers["kept"] and len(numbers["none"]) == 18
    # Two teachers, of two batches in each phase and of two of calibration; those once
    # more, because the first phase did not ask for a loss of the teachers' own.
    assert counts["kept"] == 2 * (4 + 2 + 2) < counts["none"] / 2


def test_what_is_kept_is_a_teacher_s(tiny_zoo, tmp_path, capsys):
    path = small_config(tmp_path, tiny_zoo)
    code = main(["train", str(path), "answers.keep=[nobody]"])
    assert code == 2 and "answers.keep names 'nobody'" in capsys.readouterr().err
