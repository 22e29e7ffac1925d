"""What is seen of a run before it begins: `mtkd train --check`."""

import shutil

import pytest

from experiments.cli import main
from tests.experiments.small_runs import said, small_config


@pytest.fixture
def config(tiny_zoo, tmp_path):
    changes = {"baselines": {"ce_only": True, "single_teachers": "all"}}
    return str(small_config(tmp_path, tiny_zoo, changes))


def test_it_says_what_would_be_trained_and_writes_nothing(config, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", config, "--check"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-4:] == [
        "phase dual: gpt2-prose, qwen-code",
        "arms: main, ce_only, single:gpt2-prose, single:qwen-code",
        "texts: 4 documents, all rows of 1 file read",
        f"run: {tmp_path / 'run'}",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_no_weight_is_read(config, tiny_zoo, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tiny_zoo["student"] / "config.json", bare)
    assert main(["train", config, "--check", f"student.model={bare}"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["phases=[nope]"], "nope is not known"),
        (["align.aligner=char_uio"], "did you mean 'char_iou'"),
        (["data.train=[/no/such.txt]"], "data.train: no text at /no/such.txt"),
        (["student.model=/no/such"], "student: model '/no/such': no such folder"),
        (["teachers.qwen-code.model=/no/such"], "teachers.qwen-code: model '/no/such'"),
        (["student.model=zoo:tiny/gtp2"], "student: the zoo has no model 'gtp2'"),
        (["student.model=zoo:tiny/studnt"], "'studnt'; did you mean 'student'?"),
        (["phases=[real_multi]"], "phase 'real_multi' needs at least 3 teachers"),
        (["--resume", "must"], "there is no run"),
        (["phase.all.train.batch_size=abc"], "is 'abc'; give an integer"),
    ],
)
def test_what_would_end_the_run_at_its_start_ends_the_check(
    config, words, message, capsys
):
    code, shown = said(["train", config, "--check", *words], capsys)
    assert code == 2
    assert message in shown


def test_held_out_text_that_is_the_text_to_learn_from_ends_the_check(
    config, tmp_path, capsys
):
    word = f"data.eval=[{tmp_path / 'text.txt'}]"
    code, message = said(["train", config, "--check", word], capsys)
    assert code == 2 and "which leaves nothing to learn from" in message
    code, at_the_start = said(["train", config, word], capsys)
    assert code == 2 and "which leaves nothing to learn from" in at_the_start


def test_a_bad_row_beyond_the_first_ends_the_check(config, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' * 40 + '{"text": 5}\n')
    code, message = said(["train", config, "--check", f"data.train=[{path}]"], capsys)
    assert (
        code == 2 and "line 41: field 'text' is the number 5; give a string" in message
    )


def test_a_column_of_numbers_is_no_text(config, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("text,words\n" + "1.5,seven wonders\n" * 3)
    for words in (["--check"], []):
        line = ["train", config, f"data.train=[{path}]", *words]
        code, message = said(line, capsys)
        assert code == 2
        assert (
            "rows.csv: field 'text' holds nothing but numbers (1.5, 1.5, 1.5)"
            in message
        )
    line = ["train", config, f"data.train=[{path}]", "data.text_field=words", "--check"]
    assert said(line, capsys)[0] == 0


def test_a_student_with_too_few_positions_ends_the_check_as_it_would_the_run(
    config, tiny_zoo, capsys
):
    words = [f"student.model={tiny_zoo['gpt2-prose']}", "data.max_length=600"]
    shown = said(["train", config, "--check", *words], capsys)
    assert shown[0] == 2 and "has 512 positions; set data.max_length=512" in shown[1]
    assert said(["train", config, *words], capsys) == shown


def test_embedded_teachers_need_not_be_built(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path / "empty"))
    word = "teachers.qwen-code.model=zoo:tiny/qwen-code"
    assert main(["train", config, "--check", word]) == 0
    shown = capsys.readouterr().out
    assert "embedded teachers to be built first: qwen-code" in shown
    assert not (tmp_path / "empty").exists()
