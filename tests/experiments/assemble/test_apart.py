"""Pairs of which the student reads the one side and its teachers the other."""

import json

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from align.text.prompted import Beside
from align.tokens.batch import encode_batch
from experiments.assemble.data import Encoder, load_data
from experiments.assemble.text_sources import Reading
from experiments.cli import main
from experiments.texts.config import DataConfig, PairsConfig
from tests.experiments.small_runs import said

NOUNS = {"dog": "Hund", "cat": "Katze", "cow": "Kuh", "fox": "Fuchs", "owl": "Eule"}


def written(folder):
    """Two files of sentences, and the links of all but the first pair."""
    for name, rows in (
        ("en", [f"The {noun} sleeps." for noun in NOUNS]),
        ("de", [f"Es schläft: {noun}." for noun in NOUNS.values()]),
        ("links", ["", *["1-2 2-1"] * 4]),
    ):
        (folder / name).write_text("".join(f"{row}\n" for row in rows))
    return {
        "source": str(folder / "en"),
        "target": str(folder / "de"),
        "links": str(folder / "links"),
        "apart": True,
    }


def test_a_translation_is_learned_beside_its_source(tmp_path, tiny_llama):
    pairs = {"en-de": PairsConfig(**written(tmp_path))}
    encode = Encoder(AutoTokenizer.from_pretrained(tiny_llama), 64, learn_end=True)
    kept = {}
    for hold in ("memory", "disk"):
        config = DataConfig(train=[], pairs=pairs, eval_share=0.2, hold=hold)
        data = load_data(config, encode, seed=0)
        assert (len(data.train), len(data.eval)) == (4, 1)
        kept[hold] = {(s.text, s.text.other, s.text.links) for s in data.train}
    assert kept["memory"] == kept["disk"]
    samples = list(Reading(config).pairs("train"))
    texts = [sample.text for sample in samples]
    assert all(isinstance(text, Beside) for text in texts)
    assert texts[0] == "Es schläft: Hund." and texts[0].other == "The dog sleeps."
    assert texts[0].links == () and texts[1].links == ((12, 18, 4, 7), (3, 11, 8, 15))
    batch = encode_batch(encode.tokenizer, texts, max_length=64)
    assert torch.equal(batch.predicted, batch.mask)  # no prompt, all is learned


def test_links_are_as_many_as_pairs(tmp_path):
    settings = written(tmp_path)
    for lines, message in (("", "ends before"), ("\n" * 5 + "0-0\n", "has a line 6")):
        (tmp_path / "links").write_text(lines)
        config = DataConfig(train=[], pairs={"x": PairsConfig(**settings)})
        with pytest.raises(ValueError, match=rf"data\.pairs\.x: .*links {message}"):
            list(Reading(config).pairs("train"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"apart": False}, r"links is .*; it goes with apart=true"),
        ({"prompt": "{source}", "links": None}, r"prompt is .* reads no prompt"),
    ],
)
def test_settings_of_pairs_apart_go_together(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        PairsConfig(**{**written(tmp_path), **change})


def config(folder, student, teacher, **changes):
    settings = {
        "run": {"name": "run", "dir": str(folder)},
        "student": {"model": str(student)},
        "teachers": {"t": {"model": str(teacher)}},
        "data": {"train": [], "pairs": {"en-de": written(folder)}, "max_length": 48},
        "train": {
            "steps": 3,
            "batch_size": 2,
            "calibration_samples": 4,
            "log_every": 1,
            "engine": "torch",
        },
        "phases": ["single"],
        "loss": {
            "gamma_kl": 0,
            "terms": {"h": {"use": "match", "site": "hidden", "projector": "linear"}},
        },
        "baselines": {"ce_only": False, "single_teachers": "none"},
        "samples": {"prompts": 0},
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


REFUSED = {
    "data.train=[zoo]": "data.train holds texts that both read",
    "output.kd=1": "output.kd of phase.single is to be 0: outputs over one text",
    "loss.gamma_kl=0.01": "loss.gamma_kl of phase.single is to be 0: attention",
    "phase.single.loss.outcome_every=2": "phase.single.loss.outcome_every is 2",
    "store.read=true": "store.read holds what was read",
    "data.written.by=student": "data.written has no sources",
    "teachers.t.model=store:x": "teachers.t.model is 'store:x'",
    "data.pairs.en-de.links=null": "lambda_k of phase.single compares tokens",
    "loss.select={r: {use: excess_loss}}": "phase.single.fuse.fusion_method or",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_two_texts_have_not_in_common_is_refused(
    change, tmp_path, tiny_llama, capsys
):
    path = config(tmp_path, tiny_llama, tiny_llama)
    code, message = said(["train", str(path), "--check", change], capsys)
    assert code == 2
    assert "data.pairs.en-de.apart: teachers read what the student" in message
    assert REFUSED[change] in message


@pytest.mark.slow
def test_a_run_across_languages_learns_and_goes_on_bit_for_bit(
    tmp_path, tiny_llama, tiny_zoo
):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    teacher = tiny_zoo["gpt2-prose"]
    whole, stopped = (
        str(config(tmp_path / name, tiny_llama, teacher)) for name in ("a", "b")
    )
    assert main(["train", whole]) == 0
    assert main(["train", stopped, "--pause-after", "2"]) == 75
    assert main(["train", stopped]) == 0
    left, right = (
        (tmp_path / n / "run" / "student" / "model.safetensors").read_bytes()
        for n in ("a", "b")
    )
    assert left == right
    rows = (tmp_path / "a" / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [row for row in map(json.loads, rows) if row["kind"] == "train"]
    assert all(line["terms"][name] > 0 for line in lines for name in ("kv_k", "h"))
    (reading,) = [r for r in map(json.loads, rows) if r["kind"] == "reading"]
    assert 0.3 < reading["coverage"] < 0.8  # two of three words are linked


def test_words_are_linked_by_the_command(tmp_path, capsys):
    written(tmp_path)
    out = tmp_path / "found"
    words = ["link", str(tmp_path / "en"), str(tmp_path / "de"), "--out", str(out)]
    assert main(words) == 0
    assert len(out.read_text().splitlines()) == 5 and "1-2" in out.read_text()
    assert "5 pairs" in capsys.readouterr().out
    code, message = said(words, capsys)
    assert code == 2 and "is there already; give a new file" in message


BY_SENTENCE = [
    "data.pairs.en-de.links=null",
    "loss.lambda_k=0",
    "loss.lambda_v=0",
    "loss.beta_cos=0",
    "loss.terms={h: {use: match, site: hidden, projector: linear, distance: mse, "
    "pool: 48}}",
]


def test_by_sentence_no_more_than_the_first_token_can_be_left_out(
    tmp_path, tiny_llama, capsys
):
    path = config(tmp_path, tiny_llama, tiny_llama)
    arguments = ["train", str(path), "--check", *BY_SENTENCE]
    code, message = said([*arguments, "loss.skip_sinks=2"], capsys)
    assert code == 2 and "phase.single.loss.skip_sinks is 2, and the mean" in message


@pytest.mark.slow
def test_by_sentence_a_teacher_without_a_token_of_beginning_teaches(
    tmp_path, tiny_llama, tiny_zoo
):
    path = config(tmp_path, tiny_llama, tiny_zoo["gpt2-prose"])
    assert main(["train", str(path), *BY_SENTENCE]) == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [row for row in map(json.loads, rows) if row["kind"] == "train"]
    assert lines and all(line["terms"]["h"] > 0 for line in lines)
    assert not any("empty" in line for line in lines)
