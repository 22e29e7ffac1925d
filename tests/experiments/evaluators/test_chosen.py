"""Names to evaluators, and `mtkd eval --use` from the command line to JSON."""

import json

import pytest

from align.errors import InputError
from experiments.cli import main
from experiments.evaluators.asked import retention
from experiments.evaluators.chosen import chosen, typed
from experiments.evaluators.pairs import read_pairs
from plugins import Registry
from student.evaluators import Metric
from tests.seq2seq import save


@pytest.fixture(scope="module")
def registry():
    return Registry.load(entry_points=False)


def test_names_and_options_become_evaluators_in_order(registry):
    made = chosen(typed(["size", "{use: speed, batches: [2]}"]), registry, "--use")
    assert list(made.by_name) == ["size", "speed"]
    assert made.by_name["speed"].sizes == [2]
    assert made.metrics["parameters"].better == "lower"
    assert typed(["size,errors", "cost"]) == ["size", "errors", "cost"]
    assert made.metric("decode", "gate.metric") == Metric("tokens/s", "higher")


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        (["siz"], "no evaluator is called 'siz'.*did you mean 'size'"),
        (["size", "size"], r"--use\[1\] is 'size' again"),
        ([{"use": "speed", "batch": 1}], r"--use\[0\]"),
        ([{"use": "speed", "repeats": 1}], r"--use\[0\].*repeats is 1"),
        ([{"batches": [1]}], r"--use\[0\] is .*registered name"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_place(registry, uses, said):
    with pytest.raises(Exception, match=said):
        chosen(uses, registry, "--use")


def test_a_metric_that_chooses_must_be_measured_and_have_a_better(registry):
    made = chosen(["bits_per_char", "calibration"], registry, "eval.use")
    with pytest.raises(
        InputError, match=r"gate\.metric is 'bleu', .* It measures bits_p"
    ):
        made.metric("bleu", "gate.metric")
    with pytest.raises(InputError, match="by which no model is better"):
        made.metric("confidence", "gate.metric")


def test_retention_is_the_share_of_the_teacher_s_quality():
    metrics = {
        "bleu": Metric("", "higher"),
        "bits": Metric("", "lower"),
        "sure": Metric("", "neither"),
    }
    ours = {"bleu": {"de": 20.0, "fr": 5.0}, "bits": {"a": 2.0}, "sure": {"a": 1.0}}
    theirs = {"bleu": {"de": 40.0}, "bits": {"a": 1.5}, "sure": {"a": 1.0}}
    assert retention(ours, theirs, metrics) == {"bleu": 50.0, "bits": 75.0}


def test_pairs_are_rows_with_both_texts(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text('{"prompt": "1", "completion": "2"}\n')
    assert read_pairs([str(path)])[0].domain == "sums"
    assert read_pairs([f"x={path}"])[0].domain == "x"
    path.write_text('{"prompt": "1"}\n')
    with pytest.raises(InputError, match=r"line 1.*prompt and completion"):
        read_pairs([str(path)])


def test_a_model_is_measured_beside_its_teacher(tiny_llama, tmp_path, capsys):
    (tmp_path / "news.txt").write_text("one two three four\n\n" * 30)
    words = [
        *("eval", str(tiny_llama), "--data", f"news={tmp_path}/news.txt"),
        *("--use", "bits_per_char", "size", "agreement"),
        *("--teachers", str(tiny_llama), "--json"),
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["models"]) == [str(tiny_llama)]  # its own teacher: once
    values = found["models"][str(tiny_llama)]
    assert 7 < values["bits_per_char"]["news"] < 10
    assert values["disk"]["all"] > 0
    assert found["metrics"]["bits_per_char"] == {"unit": "bits/char", "better": "lower"}


def test_a_teacher_of_pairs_is_left_out_of_single_texts_and_said_so(
    tiny_llama, tmp_path, capsys
):
    # as of a run with an encoder-decoder among its teachers, such as the quickstart
    save(tmp_path / "t5")
    (tmp_path / "news.txt").write_text("one two three four\n\n" * 30)
    words = ["eval", str(tiny_llama), "--data", f"news={tmp_path}/news.txt"]
    words += ["--use", "agreement", "size", "--teachers", str(tmp_path / "t5")]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["models"]) == [str(tiny_llama)]
    assert any("encoder-decoder, which writes a target" in n for n in said["notes"])
