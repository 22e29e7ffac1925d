"""Next-token outputs from a store teach as live ones do that name as many tokens."""

import json
import re

import pytest

from experiments.config.tree import load_config
from experiments.extraction.run import extract
from teacher.store import KVStore
from tests.experiments.small_runs import said, small_config

TOP_K = 8
TWIN = "qwen-code"
"""The teacher that is a model of the student's vocabulary here."""
SILENT = {"lambda_k": 0, "lambda_v": 0, "beta_cos": 0, "gamma_kl": 0}


def changes(folder, zoo):
    """A teacher of the student's vocabulary and one of its own; outputs alone."""
    output = {"kd": 1, "likelihood": 0.5, "top_k": TOP_K, "teachers": {"kd": [TWIN]}}
    return {
        "student": {"init": "fresh"},
        "teachers": {TWIN: {"model": str(zoo["student"])}},
        "phase": {"all": {"loss": SILENT, "output": output}},
        "store": {"dir": str(folder / "kv"), "name": "kv", "shard_samples": 8},
    }


def losses(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["terms"] for row in rows if row["kind"] == "train"]


@pytest.fixture(scope="module")
def taught(tiny_zoo, tmp_path_factory):
    """A config, its losses from live teachers, and a store of their outputs."""
    from experiments.cli import main

    folder = tmp_path_factory.mktemp("outputs")
    config = small_config(folder, tiny_zoo, changes(folder, tiny_zoo))
    assert main(["train", str(config), "run.name=live"]) == 0
    words = [f"store.top_k={TOP_K}", "store.encoding=int8"]
    assert main(["extract", str(config), *words]) == 0
    return config, losses(folder / "live")


def near(got, want, tolerance):
    assert len(got) == len(want) > 0
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys() and {"kd", "likelihood"} <= one.keys()
        for term, value in other.items():
            assert one[term] == pytest.approx(value, rel=tolerance), term


def test_a_store_of_outputs_alone_says_what_it_holds_and_what_that_costs(
    taught, capsys
):
    folder = taught[0].parent
    store = KVStore(folder / f"kv/kv/{TWIN}")
    assert store.plan.shape.layers == 0 and store.plan.outputs.top_k == TOP_K
    assert 0 < store.plan.facts["errors"]["outputs_kl"] < 1e-3
    assert said(["store", "verify", str(folder / "kv/kv")], capsys) == (0, "")
    assert said(["store", "info", str(folder / "kv/kv")], capsys) == (0, "")


@pytest.mark.slow
def test_a_run_from_it_has_the_losses_of_live_teachers_to_its_error(taught, capsys):
    config, live = taught
    words = ["train", str(config), "store.encoding=int8"]
    for name, read in (("stored", "true"), ("mixed", f"[{TWIN}]")):
        run = [*words, f"run.name={name}", f"store.read={read}"]
        assert said(run, capsys) == (0, "")
        near(losses(config.parent / name), live, 2e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["kd=0", "sequence_ot=1", "teachers={sequence_ot: [qwen-code]}"],
            "hidden states",
        ),
        (["top_k=0", "threshold=0.1"], r"output\.top_k=8"),
        (["hybrid_ot=1"], r"between 50 tokens.*output\.ot_top_k=8.*store\.top_k=50"),
    ],
)
def test_what_needs_more_is_refused_with_what_to_use(taught, capsys, settings, words):
    every = [f"phase.all.output.{setting}" for setting in settings]
    run = ["run.name=refused", "store.read=true", "store.encoding=int8", *every]
    code, message = said(["train", str(taught[0]), *run], capsys)
    assert code == 2 and "the 8 likeliest tokens alone are kept" in message
    assert re.search(words, message), message


@pytest.mark.slow
def test_outputs_lie_beside_keys_and_values_and_go_on_after_a_stop(tiny_zoo, tmp_path):
    """Shards that a first task left are kept, and the store is that of one task."""
    path = small_config(tmp_path, tiny_zoo, changes(tmp_path, tiny_zoo))
    words = ["phase.all.loss.lambda_k=1", f"store.top_k={TOP_K}"]

    def made(name, stop):
        extract(load_config(path, [*words, f"store.name={name}"]), stop=stop)
        files = sorted((tmp_path / "kv" / name / TWIN).glob("kv-*.safetensors"))
        return {file.name: file.read_bytes() for file in files}

    asked = iter([False, True])
    first = made("stopped", lambda: next(asked))
    whole = made("whole", None)
    assert 0 < len(first) < len(whole)
    assert made("stopped", None) == whole
    store = KVStore(tmp_path / f"kv/whole/{TWIN}")
    sample = store.read_sample(0, named=True)
    assert store.plan.shape.layers > 0 and sample.k.numel() > 0
    assert sample.named.ids.shape == (sample.k.shape[1], TOP_K)
