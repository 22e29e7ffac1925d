"""Routers that are told more than the student's state, in whole runs."""

import json
from types import SimpleNamespace

import pytest

from align.tokens.kinds import KINDS
from experiments.assemble.checks import unknown_labels
from experiments.record.run_dir import read_run
from experiments.report.figures import draw_run
from fuse.config import FuseConfig
from tests.experiments.small_runs import said, small_config, write_text

LABELS = {"use": "label", "domains": {"one": "qwen-code"}}
PHASES = {
    "dual": {"fuse": {"fusion_method": LABELS}},
    "multi_basic": {
        "teachers": {"min": 2},
        "fuse": {"fusion_method": "prequential", "space": "losses"},
    },
}


def two_domains(tmp_path, zoo, changes):
    texts = [
        f"{name}={write_text(tmp_path / f'{name}.txt', size)}"
        for name, size in (("one", 20), ("two", 30))
    ]
    data = {"data": {"train": texts}, "phases": list(PHASES), "phase": PHASES}
    train = {"train": {"batch_size": 8}}
    return str(small_config(tmp_path, zoo, data | train | changes))


@pytest.mark.slow
def test_labels_give_a_domain_its_teacher_and_what_was_read_moves_weights(
    tiny_zoo, tmp_path, capsys
):
    config = two_domains(tmp_path, tiny_zoo, {})
    assert said(["train", config], capsys) == (0, "")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(row) for row in rows]
    routed = [line for line in lines if line.get("kind") == "routing"]
    assert {line["phase"] for line in routed} == {"dual", "multi_basic"}
    for line in routed:
        for domain, weights in line["weights"].items():
            code = weights["qwen-code"]
            if line["phase"] == "dual":
                assert code == pytest.approx({"one": 1.0, "two": 0.5}[domain], abs=0.01)
            else:
                assert 0 < code < 1 and abs(code - 0.5) > 1e-4


@pytest.mark.slow
def test_the_surest_teacher_alone_is_learned_from_at_every_token(
    tiny_zoo, tmp_path, capsys
):
    fuse = {"fusion_method": "score", "choice": "hard", "space": "losses"}
    phase = {"multi_basic": {"teachers": {"min": 2}, "fuse": fuse}}
    changes = {"phases": ["multi_basic"], "phase": phase}
    config = two_domains(tmp_path, tiny_zoo, changes)
    assert said(["train", config], capsys) == (0, "")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(row) for row in rows]
    routed = [line for line in lines if line.get("kind") == "routing"]
    assert routed
    for line in routed:
        assert line["entropy"] > 0, "it is that of the weights before the choice"
        assert line["weights"] == line["leads"]
        kinds = line["kinds"]
        assert set(kinds) <= set(KINDS) and "word" in kinds
        for weights in kinds.values():
            assert sum(weights.values()) == pytest.approx(1)
        sample = line["sample"]
        assert len(sample["ends"]) == len(sample["teachers"])
        assert sample["ends"][-1] <= len(sample["text"])
    drawn = {path.stem for path in draw_run(read_run(tmp_path / "run"))}
    assert {"routing_domains", "routing_kinds", "routing_text"} <= drawn


@pytest.mark.parametrize(
    ("fuse", "message"),
    [
        ({"fusion_method": "label"}, "label has no domains"),
        (
            {"fusion_method": {"use": "label", "domains": {"one": "qwen"}}},
            "domains.one is 'qwen', which is no teacher; give one of gpt2-prose, qwen",
        ),
        (
            {"fusion_method": {"use": "prequential", "decay": 2}},
            "decay",
        ),
        (
            {"fusion_method": "prequential", "routing_level": "sample"},
            "set fuse.routing_level=token",
        ),
        (
            {"fusion_method": {"use": "confidence", "by": "luck"}},
            "'luck'",
        ),
        (
            {"fusion_method": {"use": "confidence", "by": "entropy", "gamma": 1}},
            "gamma",
        ),
        ({"choice": "best"}, "choose from soft, hard, sampled"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    tiny_zoo, tmp_path, capsys, fuse, message
):
    changes = {"phases": ["dual"], "phase": {"dual": {"fuse": fuse}}}
    config = two_domains(tmp_path, tiny_zoo, changes)
    code, shown = said(["train", config, "--check"], capsys)
    assert code == 2 and message in shown


def test_a_label_of_no_text_is_warned_of():
    labels = {"use": "label", "domains": {"one": "a", "One": "a"}}
    phase = SimpleNamespace(name="dual", fuse=FuseConfig(fusion_method=labels))
    (sentence,) = unknown_labels(phase, ["two", "one", "two"])
    assert "names 'One', which no text is of; the texts are of one, two" in sentence
