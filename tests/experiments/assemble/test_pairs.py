"""``data.pairs`` in a run: read, held out, learned, measured by what is written."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import yaml

from align.text.documents import TextSample
from experiments.assemble.data import Encoder, load_data
from experiments.assemble.read_through import read_through
from experiments.assemble.text_sources import Reading, check_sources, source_warnings
from experiments.cli import main
from experiments.config.tree import load_config
from experiments.extraction.corpus import plan_corpus
from experiments.record.history import read_json
from experiments.run.lineage import samples_digest
from experiments.texts.config import DataConfig, PairsConfig
from student.evaluate import bits_and_chars
from tests.experiments.small_runs import small_config


@pytest.fixture
def pairs(tmp_path):
    nouns = ["dog", "cat", "cow", "fox", "owl", "bee", "ant", "hen", "pig", "rat"]
    table = "".join(f"A {noun}.\tEin {noun.upper()}.\n" for noun in nouns)
    (tmp_path / "de.tsv").write_text(table)
    (tmp_path / "fr.jsonl").write_text(
        "".join(
            json.dumps({"source": f"A {noun}.", "target": f"Un {noun.upper()}."}) + "\n"
            for noun in nouns
        )
    )
    return {
        "en-de": PairsConfig(file=str(tmp_path / "de.tsv")),
        "en-fr": PairsConfig(file=str(tmp_path / "fr.jsonl"), prompt="{source} =>"),
    }


@pytest.fixture(scope="module")
def encode(tiny_llama):
    from transformers import AutoTokenizer

    return Encoder(AutoTokenizer.from_pretrained(tiny_llama), 64, learn_end=True)


def test_pairs_are_held_out_whole_by_language_pair(pairs, encode):
    config = DataConfig(train=[], pairs=pairs, eval_share=0.2)
    data = load_data(config, encode, seed=0)
    assert {(s.domain, len(s.text.prompt) > 0) for s in data.train} == {
        ("en-de", True),
        ("en-fr", True),
    }
    for name in pairs:
        held = {str(s.text) for s in data.eval if s.domain == name}
        learned = {str(s.text) for s in data.train if s.domain == name}
        assert len(held) == 2 and len(learned) == 8 and not held & learned
    german = next(s for s in data.train if s.domain == "en-de").text
    assert german.prompt.endswith(". en-de:")
    assert german.completion.startswith(" Ein ")


def test_held_out_pairs_of_their_own_are_measured_and_not_learned(
    pairs, tmp_path, encode
):
    (tmp_path / "val.tsv").write_text("A dog.\tEin DOG.\nA yak.\tEin YAK.\n")
    own = PairsConfig(file=pairs["en-de"].file, eval_file=str(tmp_path / "val.tsv"))
    data = load_data(DataConfig(train=[], pairs={"en-de": own}), encode, seed=0)
    assert sorted(s.text.completion for s in data.eval) == [" Ein DOG.", " Ein YAK."]
    assert len(data.train) == 9  # the dog is held out
    assert "held out, too" in " ".join(data.warnings)


def test_pairs_whose_source_is_held_out_are_not_learned(pairs, tmp_path, encode):
    """Whatever their translation; the same words to another language are."""
    (tmp_path / "val.tsv").write_text("A dog.\tEin Hund.\n")
    own = PairsConfig(file=pairs["en-de"].file, eval_file=str(tmp_path / "val.tsv"))
    config = DataConfig(train=[], pairs={"en-de": own})
    data = load_data(config, encode, seed=0)
    assert " Ein DOG." not in [s.text.completion for s in data.train]
    (warning,) = data.warnings
    assert warning.startswith("1 of 10 samples of data.train have sources that are")
    corpus = plan_corpus(config, encode, seed=0, calibration=4)
    assert {s.id for s in corpus.stream()} == {s.id for s in data.train}
    assert "1 of 10 documents of data.train have sources" in read_through(config)[-1]
    assert len(load_data(replace(config, overlap="keep"), encode, seed=0).train) == 10
    with pytest.raises(ValueError, match=r"sources.*data\.overlap is refuse"):
        load_data(replace(config, overlap="refuse"), encode, seed=0)
    both = {"en-de": own, "en-fr": pairs["en-fr"]}
    data = load_data(replace(config, pairs=both), encode, seed=0)
    assert "9 of" not in data.warnings[0] and data.warnings[0].startswith("1 of 20")
    twice = "A dog.\tEin Hund.\nA dog.\tDer Hund.\nA cat.\tEine Katze.\n"
    (tmp_path / "own.tsv").write_text(twice)
    one = PairsConfig(file=str(tmp_path / "own.tsv"))
    for seed in range(6):
        data = load_data(DataConfig(train=[], pairs={"x": one}), encode, seed)
        held = {s.text.prompt for s in data.eval}
        assert not held & {s.text.prompt for s in data.train}


def test_pairs_without_room_for_their_translation_are_left_out(tmp_path, encode):
    long = "word " * 80
    table = f"{long}\tEins.\n{long}\tZwei.\nA dog.\tEin Hund.\nA cat.\tEine Katze.\n"
    (tmp_path / "a.tsv").write_text(table)
    one = PairsConfig(file=str(tmp_path / "a.tsv"))
    config = DataConfig(train=[], pairs={"x": one})
    data = load_data(config, encode, seed=0)
    assert sorted(s.text.completion for s in [*data.train, *data.eval]) == [
        " Ein Hund.",
        " Eine Katze.",
    ]
    (warning,) = data.warnings
    assert "2 of 4 pairs lose their whole translation" in warning
    corpus = plan_corpus(config, encode, seed=0, calibration=4)
    assert warning in corpus.warnings and corpus.samples == 1 + len(corpus.calibration)
    (tmp_path / "a.tsv").write_text(f"{long}\tEins.\n" * 3)
    for read in (load_data, partial(plan_corpus, calibration=4)):
        with pytest.raises(ValueError, match=r"3 of 3 pairs.*raise data\.max_length"):
            read(config, encode, seed=0)


def test_held_out_pairs_stand_beside_the_embedded_texts(
    pairs, tmp_path, encode, monkeypatch
):
    def prose(split):
        yield TextSample(f"Some prose for {split}.", "prose", split)

    for module in ("data", "text_sources"):
        monkeypatch.setattr(f"experiments.assemble.{module}.zoo_texts", prose)
    (tmp_path / "val.tsv").write_text("A yak.\tEin YAK.\n")
    own = PairsConfig(file=pairs["en-de"].file, eval_file=str(tmp_path / "val.tsv"))
    data = load_data(DataConfig(pairs={"en-de": own}), encode, seed=0)
    assert {s.domain for s in data.eval} == {"prose", "en-de"}
    assert len(data.train) == 11


def test_what_is_prompt_is_part_of_a_run_s_identity(pairs, encode):
    config = DataConfig(train=[], pairs=pairs)
    samples = load_data(config, encode, seed=0).train
    plain = [type(s)(str(s.text), s.domain, s.id) for s in samples]
    assert samples_digest(samples) != samples_digest(plain)


def test_bits_are_those_of_the_completion(pairs, encode):
    import torch

    config = DataConfig(train=[], pairs={"en-de": pairs["en-de"]})
    sample = load_data(config, encode, seed=0).eval[0]
    batch = encode([sample.text])
    bits, chars = bits_and_chars(torch.zeros(*batch.ids.shape, 257), batch)
    assert chars.tolist() == [len(sample.text.completion)]
    assert bits.tolist() == pytest.approx(
        [math.log2(257) * len(sample.text.completion)]
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give file, or source and target"),
        ({"source": "a"}, "give file, or source and target, line by line"),
        ({"file": "a", "source": "b", "target": "c"}, "give file, or source"),
        ({"file": "a", "eval_target": "b"}, "give eval_file, or eval_source"),
        ({"file": "a", "prompt": "{pair}:"}, "must hold {source}"),
        ({"file": "a", "prompt": "{source} {target}"}, "no other name in braces"),
        ({"file": "a", "prompt": "{source"}, "write braces that stand for themselves"),
    ],
)
def test_sections_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        PairsConfig(**given)


def test_bad_files_are_refused_before_any_work(tmp_path):
    def check(**changes):
        check_sources(DataConfig(**{"train": [], "pairs": {"x": one}, **changes}))

    one = PairsConfig(file=str(tmp_path / "none.tsv"))
    with pytest.raises(FileNotFoundError, match=r"data\.pairs\.x: .*none\.tsv"):
        check()
    one = PairsConfig(file=str(tmp_path / "a.tsv"))
    (tmp_path / "a.tsv").write_text("")
    with pytest.raises(ValueError, match=r"a\.tsv hold no pairs"):
        check()
    (tmp_path / "a.tsv").write_text("a\tb\nc\t\n")
    with pytest.raises(ValueError, match="line 2: the target is empty; give both"):
        check()
    check(on_bad_row="skip")
    rows = '{"source": "a", "target": 3}\n[]\n{"source": "a", "target": "b"}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    config = DataConfig(
        train=[],
        pairs={"x": PairsConfig(file=str(tmp_path / "a.jsonl"))},
        on_bad_row="skip",
    )
    reading = Reading(config)
    assert [s.text.completion for s in reading.pairs("train")] == [" b"]
    assert reading.bad_rows.count == 2 and "'target' is 3" in reading.bad_rows.first
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(ValueError, match=r"data\.eval is held out, but nothing of"):
        check(on_bad_row="skip", eval=[str(tmp_path / "text.txt")])


def test_text_beside_pairs_is_told_where_nobody_asked_for_it():
    config = load_config({"data": {"pairs": {"x": {"file": "a.tsv"}}}})
    assert any("data.train is [zoo] beside" in s for s in source_warnings(config))
    config = load_config({"data": {"train": [], "pairs": {"x": {"file": "a.tsv"}}}})
    assert source_warnings(config) == []
    with pytest.raises(ValueError, match=r"data\.train is empty"):
        load_config({"data": {"train": []}})


@pytest.mark.slow
def test_a_run_learns_pairs_and_is_measured_by_what_it_writes(
    tiny_zoo, tmp_path, pairs, capsys
):
    pytest.importorskip("sacrebleu")
    import sacrebleu

    files = {name: {"file": entry.file} for name, entry in pairs.items()}
    changes = {
        "data": {"train": [], "pairs": files, "max_length": 48},
        "eval": {"use": [{"use": "generation", "new_tokens": 4}, "errors"]},
        "gate": {"metric": "chrf"},
    }
    config = small_config(tmp_path, tiny_zoo, changes)
    assert yaml.safe_load(config.read_text())["data"]["train"] == []
    assert main(["train", str(config)]) == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    phase = summary["phases"][-1]
    assert phase["metrics"]["bleu"].keys() == {"en-de", "en-fr"}
    written = [s for s in phase["written"] if s["domain"] == "en-fr"]
    right = [s["reference"].strip() for s in written]
    chrf = sacrebleu.corpus_chrf([s["written"] for s in written], [right]).score
    assert phase["metrics"]["chrf"]["en-fr"] == pytest.approx(chrf)
    page = (tmp_path / "run" / "report.md").read_text()
    assert "How much of a teacher's number" in page and "| ter, en-de |" in page
