import dataclasses

import pytest

from experiments.assemble.data import Encoder, load_data, longest_texts
from experiments.config.tree import load_config
from experiments.extraction.corpus import plan_corpus
from teacher.zoo.text import zoo_documents
from tests.experiments.small_runs import write_text


@pytest.fixture
def encode(tiny_llama):
    from transformers import AutoTokenizer

    return Encoder(AutoTokenizer.from_pretrained(tiny_llama), 64)


def sources(tmp_path):
    write_text(tmp_path / "prose.txt", 120)
    lines = [f'{{"text": "line {i} of code = {i * i}"}}\n' for i in range(90)]
    (tmp_path / "code.jsonl").write_text("".join(lines))
    write_text(tmp_path / "held.txt", 9)
    return [f"a={tmp_path / 'prose.txt'}", str(tmp_path / "code.jsonl")]


def words(samples):
    return [sample.text for sample in samples]


CHANGES = [
    {},
    {"train_samples": 13},
    {"eval_share": 0.3},
    pytest.param({"train": "zoo"}, marks=pytest.mark.slow),
    pytest.param({"train": "both", "train_samples": 40}, marks=pytest.mark.slow),
]


@pytest.fixture
def small_zoo(monkeypatch):
    """The beginnings of some documents of each split of the zoo's texts."""

    def some(*which):
        return [(name, text[:2000]) for name, text in zoo_documents(*which)[:12]]

    monkeypatch.setattr("teacher.zoo.zoo_documents", some)


@pytest.mark.slow
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_what_is_extracted_is_what_a_run_reads_in_the_order_of_the_text(
    small_zoo, tmp_path, encode, changes
):
    files = sources(tmp_path)
    train = {"zoo": ["zoo"], "both": ["zoo", *files]}.get(changes.get("train"), files)
    config = load_config({"data": {"max_length": 64} | changes | {"train": train}}).data
    corpus = plan_corpus(config, encode, seed=3, calibration=16)
    data = load_data(config, encode, 3)
    streamed = list(corpus.stream())
    assert corpus.samples == len(streamed)
    wanted = {(s.id, s.text) for s in data.train}
    if changes.get("train") == "zoo":
        wanted |= {(s.id, s.text) for s in data.calibration[:16]}
    assert {(s.id, s.text) for s in streamed} == wanted
    assert {s.text for s in data.calibration[:16]} <= {s.text for s in streamed}
    assert not {s.id for s in data.eval} & {s.id for s in streamed if s in data.eval}


def test_held_out_files_leave_all_training_text(tmp_path, encode):
    files = sources(tmp_path)
    held = str(tmp_path / "held.txt")
    config = load_config({"data": {"train": files, "eval": [held]}}).data
    corpus = plan_corpus(config, encode, seed=0, calibration=16)
    data = load_data(config, encode, 0)
    assert corpus.samples == len(data.train)
    assert words(corpus.longest) == words(longest_texts([*data.train, *data.eval]))


def test_shards_are_stretches_of_the_stream(tmp_path, encode):
    config = load_config({"data": {"train": sources(tmp_path)}}).data
    corpus = plan_corpus(config, encode, seed=0, calibration=16)
    streamed = list(corpus.stream())
    last = (corpus.samples - 1) // 10
    got = dict(corpus.shards(10, [0, 2, last]))
    assert got == {
        0: streamed[:10],
        2: streamed[20:30],
        last: streamed[10 * last :],
    }


def test_the_digest_follows_every_character_and_the_longest_are_known(tmp_path, encode):
    config = load_config({"data": {"train": sources(tmp_path)}}).data
    before = plan_corpus(config, encode, seed=0, calibration=16)
    data = load_data(config, encode, 0)
    seen = words(longest_texts([*data.train, *data.eval, *data.calibration]))
    assert words(before.longest) == seen
    assert len(seen) == len(set(seen)) == 64
    path = tmp_path / "code.jsonl"
    path.write_text(path.read_text().replace("line 44 of", "line 44 uf"))
    assert plan_corpus(config, encode, seed=0, calibration=16).digest != before.digest
    other = dataclasses.replace(config, train_samples=5)
    assert plan_corpus(other, encode, seed=0, calibration=16).samples == 10


def test_an_offending_line_is_named(tmp_path, encode):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n{"txt": "not"}\n')
    config = load_config({"data": {"train": [str(path)]}}).data
    with pytest.raises(
        ValueError, match=r"data\.train: .*bad\.jsonl, line 2: no field"
    ):
        plan_corpus(config, encode, seed=0, calibration=16)
