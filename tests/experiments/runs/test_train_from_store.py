"""A run that reads stored teachers learns what one with live teachers learns."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.assemble.fingerprint import ends_of, settings_of, tokenizer_digest
from experiments.assemble.stored_teachers import check_settings
from experiments.cli import main
from experiments.config.parsing import merge
from experiments.config.tree import load_config
from student.loop.batches import BatchMaker
from teacher.store import KVStore, StoreError
from teacher.store.manifest import Encoding
from tests.experiments import spoiled
from tests.experiments.runs.test_chats import PLAIN, STRICT, templated, write_chats
from tests.experiments.small_runs import said, small_config
from tests.small_tokenizers import small

LEARN = {
    "data": {"train_samples": 20},
    "train": {"steps": 4, "checkpoint_every": 2, "calibration_samples": 8},
    "phase": {"all": {"loss": {"gamma_kl": 0, "outcome_every": 2}}},
}


@pytest.fixture
def run(tiny_zoo, tmp_path, capsys):
    """Train by name with overrides; the logged losses, step by step."""
    config = small_config(tmp_path, tiny_zoo, LEARN | {"store": place(tmp_path)})

    def train(name, *overrides):
        words = [str(config), f"run.name={name}", *overrides]
        assert said(["train", *words], capsys) == (0, "")
        return losses(tmp_path / name)

    return train


def place(folder: Path):
    return {"dir": str(folder / "kv"), "name": "kv", "shard_samples": 8}


def losses(folder: Path):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        row["terms"] | {"all": row["loss"]} for row in rows if row["kind"] == "train"
    ]


def extract(tmp_path, capsys, *overrides):
    words = [str(tmp_path / "config.yaml"), *overrides]
    assert said(["extract", *words], capsys) == (0, "")


def close(got, want, tolerance):
    assert len(got) == len(want) > 0
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for term, value in other.items():
            near = pytest.approx(value, abs=tolerance, rel=tolerance)
            assert one[term] == near, term


@pytest.fixture(scope="module")
def taught_live(tiny_zoo, tmp_path_factory):
    """Losses of a run with live teachers, and the store of what they said."""
    folder = tmp_path_factory.mktemp("live")
    config = str(small_config(folder, tiny_zoo, LEARN | {"store": place(folder)}))
    assert main(["train", config, "run.name=live"]) == 0
    assert main(["extract", config, "store.encoding=float32"]) == 0
    return losses(folder / "live"), folder / "kv"


@pytest.fixture
def live(taught_live, tmp_path):
    """Those losses, with the store where a run of this test looks for it."""
    shutil.copytree(taught_live[1], tmp_path / "kv")
    return taught_live[0]


@pytest.mark.slow
def test_live_and_stored_teachers_give_the_same_losses(run, live):
    stored = run("stored", "store.read=true", "store.encoding=float32")
    close(stored, live, 1e-6)


@pytest.mark.slow
def test_stored_teachers_rest_on_the_texts_on_which_live_ones_do(run, live, tmp_path):
    fuse = ("choice=sampled", "routing_level=sample", "fusion_method=fixed")
    chosen = [f"phase.all.fuse.{setting}" for setting in (*fuse, "weights=[1, 2]")]
    by_live = run("chosen", *chosen)
    by_store = run("rest", *chosen, "store.read=true", "store.encoding=float32")
    close(by_store, by_live, 1e-6)
    assert by_live[0]["kv_k"] != pytest.approx(live[0]["kv_k"], rel=1e-3)
    shares = [
        [row["asked"] for row in rows if row["kind"] == "train"]
        for name in ("chosen", "rest")
        for rows in [list(map(json.loads, (tmp_path / name / "metrics.jsonl").open()))]
    ]
    assert shares[0] == shares[1]
    assert all(sum(asked.values()) == 1 for asked in shares[0])
    assert any(0 < asked["qwen-code"] < 1 for asked in shares[0])


@pytest.mark.slow
def test_one_stored_and_one_live_teacher_give_the_losses_of_two_live_ones(
    run, tmp_path, capsys
):
    outputs = [
        "phase.all.output.projected_kl=1",
        "phase.all.output.teachers={projected_kl: [qwen-code]}",
    ]
    live = run("live", *outputs)
    assert "projected_kl" in live[0]
    extract(tmp_path, capsys, "store.encoding=float32", *outputs)
    config, watching = str(tmp_path / "config.yaml"), "phase.all.loss.gamma_kl=0.1"
    words = ["store.read=true", "store.encoding=float32", "run.name=refused", watching]
    code, message = said(["train", config, *words], capsys)
    assert code == 2 and "attention_kl compares attention" in message
    assert "which teacher 'gpt2-prose' cannot give: stores hold" in message
    shutil.rmtree(tmp_path / "kv" / "kv" / "qwen-code")
    words = ["store.read=[gpt2-prose]", "store.encoding=float32", *outputs]
    close(run("mixed", *words), live, 1e-6)
    watched = run("watched", *words, watching)
    assert all(step["attention_kl"] > 0 for step in watched)
    told = "attention_kl learns nothing from teacher 'gpt2-prose', only from qwen-code"
    assert told in (tmp_path / "watched" / "metrics.jsonl").read_text()


def test_a_teacher_that_has_no_store_is_asked_live_and_that_is_said(
    live, tmp_path, tiny_zoo, capsys
):
    small_config(tmp_path, tiny_zoo, LEARN | {"store": place(tmp_path)})
    shutil.rmtree(tmp_path / "kv" / "kv" / "qwen-code")
    words = [str(tmp_path / "config.yaml"), "run.name=mixed", "store.read=true"]
    assert main(["train", *words, "store.encoding=float32"]) == 0
    message = capsys.readouterr().err
    assert "teacher 'qwen-code' has no store in" in message
    assert "is asked live; `mtkd extract` with this config stores it" in message
    assert "teacher 'gpt2-prose' has no store" not in message
    close(losses(tmp_path / "mixed"), live, 1e-6)
    named = "store.read=[gpt2-prose, qwen-code]"
    code, message = said(["train", *words[:1], "run.name=n", named], capsys)
    assert code == 2 and "no store of qwen-code in" in message


def same_live_and_stored(folder, zoo, capsys, changes):
    """Train by a config twice, and see the same losses."""
    settings = merge(LEARN | {"store": place(folder)}, changes)
    config = str(small_config(folder, zoo, settings))
    shown = []
    for name in ("live", "stored"):
        if name == "stored":
            extract(folder, capsys, "store.encoding=float32")
        words = [config, f"run.name={name}", f"store.read={name == 'stored'}"]
        assert said(["train", *words, "store.encoding=float32"], capsys) == (0, "")
        shown.append(losses(folder / name))
    close(*shown, 1e-6)


@pytest.mark.slow
def test_stored_conversations_keep_their_turns(tiny_zoo, tmp_path, capsys):
    zoo = dict(tiny_zoo)
    for name, template in (("student", PLAIN), ("gpt2-prose", STRICT)):
        zoo[name] = templated(tiny_zoo[name], tmp_path / name, template)
    chats = write_chats(tmp_path / "chats.jsonl")
    data = {"data": {"train": [str(chats)], "max_length": 96}}
    same_live_and_stored(tmp_path, zoo, capsys, data)
    (tmp_path / "gpt2-prose" / "chat_template.jinja").write_text(PLAIN)
    config = str(tmp_path / "config.yaml")
    code, message = said(["extract", config, "store.encoding=float32"], capsys)
    assert code == 2 and "tokenizer: stored" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "choice", "said_in_plan", "refusal"),
    [
        ("gpt2-prose", "window", "windows of 16 every 8", "text: stored"),
        ("qwen-code", "window", "windows of 16 every 8", "positions: stored"),
        ("qwen-code", "extend", "ntk to ", "positions: stored"),
    ],
)
def test_texts_longer_than_a_teachers_positions(
    tiny_zoo, tmp_path, capsys, teacher, choice, said_in_plan, refusal
):
    folder = tmp_path / "short"
    if teacher == "qwen-code":
        shutil.copytree(tiny_zoo[teacher], folder)
        own = json.loads((folder / "config.json").read_text())
        own["max_position_embeddings"] = 16
        (folder / "config.json").write_text(json.dumps(own))
    else:
        torch.manual_seed(0)
        spoiled.short_sighted(folder, tiny_zoo[teacher], 16)
    short = {"model": str(folder), "long_texts": choice}
    # Held-out text decides how far a rotation is stretched, as in a live run.
    changes = {"teachers": {"short": short}, "data": {"eval_share": 0.4}}
    same_live_and_stored(tmp_path, tiny_zoo, capsys, changes)
    plan = KVStore(tmp_path / "kv" / "kv" / "short").plan
    assert str(plan.fingerprint["positions"]).startswith(said_in_plan)
    other = "extend" if choice == "window" else "window"
    words = [str(tmp_path / "config.yaml"), "store.encoding=float32"]
    words.append(f"teachers.short.long_texts={other}")
    code, message = said(["extract", *words], capsys)
    assert code == 2 and refusal in message
    code, message = said(["train", *words, "store.read=true", "run.name=r"], capsys)
    assert code == 2 and f"positions: stored '{said_in_plan}" in message


@pytest.mark.slow
def test_narrow_encodings_give_losses_within_their_errors(
    run, live, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("experiments.extraction.encoding_error.SAMPLES", 16)
    for encoding in ("bfloat16", "int8"):
        words = [f"store.encoding={encoding}", f"store.name={encoding}"]
        extract(tmp_path, capsys, *words)
        plan = KVStore(tmp_path / "kv" / encoding / "gpt2-prose").plan
        error = max(plan.facts["errors"][part] for part in "kv")
        stored = run(encoding, "store.read=true", *words)
        # Squared distances of standardised features of size 1 move by twice the error;
        # what is trained on other numbers goes on from there.
        close(stored[:1], live[:1], max(6 * error, 1e-3))
        close(stored, live, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["aligned", "adapted", "fused"])
def test_every_form_teaches(run, tmp_path, capsys, form):
    # Means by position are those of the teacher's own tokens, which are gone here.
    words = [f"store.form={form}", "store.encoding=float32"]
    words += ["align.position_means=keep", "train.learning_rate=0.01"]
    words += ["train.steps=12"]
    extract(tmp_path, capsys, *words)
    stored = run(form, "store.read=true", *words)
    if form == "aligned":  # the same numbers, brought over earlier
        close(stored, run("live", *words[2:]), 1e-5)
    # At this rate most of the distance is gone by then, whatever the texts are.
    assert stored[-1]["kv_k"] < 0.8 * stored[0]["kv_k"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_the_store_bit_for_bit(run, tmp_path, capsys):
    """Keys, values and next-token outputs."""
    outputs = ["phase.all.output.likelihood=1", "store.top_k=8"]
    extract(tmp_path, capsys, "store.encoding=int8", *outputs)
    words = ["store.read=true", "store.encoding=int8", *outputs]
    whole = run("whole", *words)
    assert all(step["likelihood"] > 0 for step in whole)
    from experiments.record.metrics import Metrics

    real = Metrics.write

    def stop_at_3(self, arm, phase, line, offset=0):
        real(self, arm, phase, line, offset)
        if line["kind"] == "train" and line["step"] == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "write", stop_at_3)
        config = str(tmp_path / "config.yaml")
        assert main(["train", config, "run.name=halves", *words]) == 75
    assert run("halves", *words) == whole
    weights = [
        tmp_path / n / "student" / "model.safetensors" for n in ("whole", "halves")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_what_a_store_cannot_give_is_refused_before_any_work(
    tmp_path, tiny_zoo, capsys, monkeypatch
):
    def refuse(*_):
        raise AssertionError("something is measured")

    monkeypatch.setattr("experiments.run.driver.starting_point", refuse)
    monkeypatch.setattr("experiments.run.driver.tell_reading", refuse)
    config = str(small_config(tmp_path, tiny_zoo, LEARN | {"store": place(tmp_path)}))
    read = ["train", config, "run.name=r", "store.read=true"]
    code, message = said(read, capsys)
    assert code == 2 and "run `mtkd extract` with this config first" in message
    extract(tmp_path, capsys)
    for override, words in (
        ("phase.all.loss.gamma_kl=0.1", "no queries, hence no attention"),
        ("phase.all.fuse.fusion_method=similarity", "holds no losses of its own"),
        ("data.max_length=24", "max_length: stored 32, config 24"),
        (
            "teachers.qwen-code.dtype=bfloat16",
            "dtype: stored 'auto', config 'bfloat16'",
        ),
        (f"teachers.qwen-code.model={tiny_zoo['neox-mixed']}", "weights: stored"),
        ("run.seed=5", "does not hold text"),
        ("store.form=adapted", "form: stored 'raw', config 'adapted'"),
        ("store.encoding=int8", "encoding: stored 'bfloat16', config 'int8'"),
    ):
        code, message = said([*read, override], capsys)
        assert code == 2 and words in message, (override, message)


@pytest.mark.parametrize("learn_end", [True, False])
def test_a_store_on_the_students_tokens_has_the_ends_that_were_extracted(learn_end):
    tokenizer = small("words")

    def check(stored):
        config = load_config(None, ["store.form=aligned", f"data.learn_end={stored}"])
        known = settings_of(config) | ends_of(config)
        known |= {"student_tokenizer": tokenizer_digest(tokenizer)}
        known |= {"aligner": config.align.aligner}
        plan = SimpleNamespace(
            form="aligned",
            fingerprint=known,
            encoding=Encoding(name="int8"),
            outputs=None,
        )
        now = load_config(None, ["store.form=aligned", f"data.learn_end={learn_end}"])
        check_settings(now, SimpleNamespace(path="kv", plan=plan), [], tokenizer)

    check(learn_end)
    words = f"learn_end: stored {not learn_end}, config {learn_end}"
    with pytest.raises(StoreError, match=words):
        check(not learn_end)


def test_ranks_read_disjoint_parts_and_epochs_other_orders():
    def numbers(rank, world, first, count=12):
        maker = BatchMaker(
            samples=list(range(count)),
            encode=None,
            views=None,
            seed=0,
            rows=0,
            batch_size=2,
            first_sample=first,
            device=torch.device("cpu"),
            rank=rank,
            world_size=world,
            survey=None,
        )
        from student.loop.data_order import sample_indices

        start = maker.first_sample
        return [
            index
            for step in range(count // (2 * world))
            for index in sample_indices(count, 0, start + step * 2 * world, 2, rank)
        ]

    parts = [numbers(rank, 2, 0) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(12))
    assert not set(parts[0]) & set(parts[1])
    assert numbers(0, 1, 0) != numbers(0, 1, 12)
