"""A teacher that is read from one store of its own, whoever made it."""

import json
import shutil

import pytest
import yaml

from experiments.cli import main
from experiments.config.parsing import merge
from experiments.config.phase_choice import kinds_here
from experiments.config.tree import load_config
from experiments.estimate.counted import memory_plan
from experiments.run.preflight import preflight
from teacher.sources.stored import Stored
from teacher.store import KVStore
from teacher.store.facts import read_facts
from teacher.store.manifest import PLAN, Plan, digest_of, read_sealed, write_sealed
from tests.experiments.small_runs import said, small_config

THEIRS, LIVE = "gpt2-prose", "qwen-code"
TOP_K = 8
LEARN = {
    "data": {"train_samples": 20},
    "train": {"steps": 2, "calibration_samples": 8},
    "phase": {
        "all": {
            "loss": {"gamma_kl": 0},
            "output": {"likelihood": 1, "top_k": TOP_K},
        }
    },
}
STORED = ["store.encoding=float32", "store.log_probs=float16", f"store.top_k={TOP_K}"]


def losses(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["terms"] for row in rows if row["kind"] == "train"]


def with_teachers(config, teachers):
    """The file with these teachers and no others."""
    data = yaml.safe_load(config.read_text()) | {"teachers": teachers}
    config.write_text(yaml.safe_dump(data))
    return config


@pytest.fixture(scope="module")
def others(tiny_zoo, tmp_path_factory):
    """Somebody's folder, with a config and stores of what its teachers say."""
    folder = tmp_path_factory.mktemp("theirs")
    store = {"store": {"dir": str(folder / "kv"), "name": "kv", "shard_samples": 8}}
    config = str(small_config(folder, tiny_zoo, merge(LEARN, store)))
    assert main(["extract", config, *STORED]) == 0
    return folder


@pytest.fixture(scope="module")
def taught(others, tiny_zoo, tmp_path_factory):
    """A config of a run of one's own: their store under another name, one live."""
    folder = tmp_path_factory.mktemp("ours")
    shutil.copytree(others / "kv" / "kv", folder / "theirs")
    shutil.copy(others / "text.txt", folder / "text.txt")
    path = with_teachers(
        small_config(folder, tiny_zoo, LEARN),
        {
            "big": {"model": f"store:{folder / 'theirs' / THEIRS}"},
            LIVE: {"model": str(tiny_zoo[LIVE])},
        },
    )
    assert main(["train", str(path), "run.name=run"]) == 0
    return path


@pytest.mark.slow
def test_it_teaches_as_the_live_teacher_beside_a_live_one(taught, others, capsys):
    live = ["train", str(others / "config.yaml"), "run.name=live"]
    assert said(live, capsys) == (0, "")
    one, other = losses(taught.parent / "run"), losses(others / "live")
    assert len(one) == len(other) == 2
    for ours, theirs in zip(one, other, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4) and ours["likelihood"] > 0


def test_what_is_known_of_it_comes_from_the_store_and_no_model(taught, capsys):
    facts = read_facts(taught.parent / "theirs" / THEIRS)
    store = KVStore(facts.folder)
    assert facts.name == THEIRS and facts.digest == digest_of(store.manifest)
    assert (facts.kind, facts.family) == ("decoder", "gpt2")
    config = load_config(taught)
    assert kinds_here({"big": {"model": config.teachers["big"].model}}) == {
        "big": "decoder"
    }
    (line,) = [row for row in preflight(config) if "teacher 'big'" in row]
    assert f"and the {TOP_K} likeliest next tokens of" in line
    lines = memory_plan(config)
    of = {name: [line for line in lines if line.of == name] for name in ("big", LIVE)}
    held = {name: [x.what for x in of[name] if "weights" in x.what] for name in of}
    assert of["big"] and held[LIVE] and not held["big"]
    draw = ["viz", "layers", str(taught), "--out", str(taught.parent / "map.png")]
    assert said(draw, capsys) == (0, "")


def test_the_digest_of_all_that_it_holds_is_noted_and_another_is_refused(
    taught, capsys
):
    folder = taught.parent / "theirs" / THEIRS
    (record,) = (taught.parent / "run" / "phases").glob("*.settings.json")
    digest = json.loads(record.read_text())["files"]["big"]
    assert digest["store"] == Stored(str(folder)).fingerprint()["store"]
    other = taught.parent / "other"
    shutil.copytree(folder.parent, other)
    plan = read_sealed(other / THEIRS / PLAN, Plan)
    assert write_sealed(other / THEIRS / PLAN, plan, replace=True)
    moved = f"teachers.big.model=store:{other / THEIRS}"
    code, message = said(["train", str(taught), moved], capsys)
    assert code == 2 and "teachers.big.model: stored" in message
    words = ["store.dir=nowhere", "store.read=[big]", "run.name=twice"]
    code, message = said(["train", str(taught), *words], capsys)
    assert code == 2 and "a store of its own, and store.read names it" in message


def test_a_folder_that_is_no_store_of_one_teacher_is_refused_with_the_next_step(
    taught, tmp_path, capsys
):
    folder = taught.parent / "theirs"
    alone, renamed = tmp_path / THEIRS, tmp_path / "stores" / "x"
    shutil.copytree(folder / THEIRS, alone)
    shutil.copytree(folder, renamed.parent)
    (renamed.parent / THEIRS).rename(renamed)
    for where, words in (
        ("", "'store:' names no folder; give that of one teacher"),
        ("/nowhere/kv", "/nowhere/kv) is not there; give the folder of one teacher"),
        (folder, f"holds several stores ({THEIRS}, {LIVE}); give one of them"),
        (alone, f"tokenizers/{THEIRS} with the teacher's tokenizer is missing; copy"),
        (renamed, f"one of {THEIRS}, {LIVE}; give the folder that name again"),
    ):
        model = [f"teachers.big.model='store:{where}'", "run.name=refused"]
        code, message = said(["train", str(taught), "--check", *model], capsys)
        assert code == 2 and "teachers.big" in message and words in message, message


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("data.max_length=24", "max_length: stored 32, config 24"),
        ("run.seed=5", "does not hold text"),
        ("teachers.big.dtype=bfloat16", "is read as its model was when it was extr"),
    ],
)
def test_what_decides_texts_and_tokens_must_be_as_it_was_extracted(
    taught, capsys, words, why
):
    code, message = said(["train", str(taught), "run.name=w", words], capsys)
    assert code == 2 and why in message


def test_extract_and_estimate_say_that_it_is_stored(taught, capsys):
    code, message = said(["extract", str(taught)], capsys)
    assert code == 2 and "which is a store already; extract with a config" in message


@pytest.mark.slow
def test_a_dry_run_an_estimate_and_a_run_that_was_stopped_read_it(taught, capsys):
    assert said(["train", str(taught), "--dry-run", "run.name=dry"], capsys)[0] == 0
    assert main(["estimate", str(taught)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "which is a store already: no stores are counted" in printed
    words = ["train", str(taught), "train.steps=4", "train.checkpoint_every=2"]
    assert said([*words, "run.name=whole"], capsys) == (0, "")
    assert main([*words, "run.name=halves", "--pause-after", "2"]) == 75
    assert said([*words, "run.name=halves"], capsys) == (0, "")
    whole, halves = (taught.parent / n / "student" for n in ("whole", "halves"))
    name = "model.safetensors"
    assert (whole / name).read_bytes() == (halves / name).read_bytes()


@pytest.mark.slow
def test_stores_of_every_form_teach_beside_each_other(others, tiny_zoo, taught, capsys):
    config = str(others / "config.yaml")
    for form in ("aligned", "adapted", "fused"):
        words = [f"store.form={form}", f"store.name={form}", "store.encoding=float32"]
        words += ["phase.all.output.likelihood=0", "phase.all.output.top_k=0"]
        assert said(["extract", config, *words], capsys) == (0, "")
    silent = ["phase.all.output.likelihood=0", "phase.all.output.top_k=0"]

    def trained(name, stores, *words):
        teachers = {
            form: {"model": f"store:{others / 'kv' / form / store}"}
            for form, store in stores.items()
        }
        path = with_teachers(
            shutil.copy(taught, taught.parent / "forms.yaml"), teachers
        )
        return said(["train", str(path), f"run.name={name}", *silent, *words], capsys)

    stores = {"aligned": THEIRS, "adapted": THEIRS}
    assert trained("forms", stores) == (0, "")
    code, message = trained("ends", stores, "data.learn_end=false")
    assert code == 2 and "learn_end: stored True, config False" in message
    code, message = trained("one", {"aligned": LIVE, "fused": "fused"})
    assert code == 2 and "in which all teachers are one and none stands al" in message
