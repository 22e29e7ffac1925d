"""A run's text: which files, under which names, looked at before any model."""

import json
from dataclasses import replace

import pytest

from align.errors import InputError, MissingFileError
from experiments.assemble.data import Encoder, load_data
from experiments.assemble.text_sources import (
    Reading,
    check_sources,
    domains_of,
    source_warnings,
    sources_of,
)
from experiments.config.parsing import build
from experiments.config.tree import load_config
from experiments.texts.config import DataConfig
from tests.experiments.small_runs import said, small_config


@pytest.fixture
def files(tmp_path):
    def write(*names, rows=2):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps({"text": f"{name} {row}"}) for row in range(rows)]
            path.write_text("\n".join(lines), encoding="utf-8")
        return [str(tmp_path / name) for name in names]

    return write


def read(which="train", **data):
    return list(Reading(DataConfig(**data)).samples(which, "student"))


def test_two_files_of_one_name_are_two_domains_and_their_samples_have_ids(files):
    samples = read(train=files("code/train.jsonl", "news/train.jsonl"))
    assert [(s.domain, s.id) for s in samples] == [
        ("code/train", "code/train.jsonl:1"),
        ("code/train", "code/train.jsonl:2"),
        ("news/train", "news/train.jsonl:1"),
        ("news/train", "news/train.jsonl:2"),
    ]
    assert {s.domain for s in read(train=files("code/train.jsonl"))} == {"train"}


def test_the_home_folder_may_be_written_short(files, tmp_path, monkeypatch):
    files("mine/a.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [s.domain for s in read(train=["~/mine/a.jsonl"])] == ["a", "a"]


def test_one_domain_for_two_files_is_a_choice_and_ids_stay_apart(files):
    code, news = files("code/train.jsonl", "news/train.jsonl")
    samples = read(train=[f"d={code}", f"d={news}", f"e={code}"])
    assert [s.domain for s in samples] == ["d"] * 4 + ["e"] * 2
    assert len({s.id for s in samples}) == 6
    assert samples[4].id == "code/train.jsonl~2:1"


def test_ids_are_apart_over_training_and_held_out_text(files):
    one, other = files("a/x.jsonl", "b/x.jsonl")
    data = {"train": [one, other], "eval": [f"x={other}"]}
    ids = [s.id for which in ("train", "eval") for s in read(which, **data)]
    assert len(set(ids)) == len(ids) == 6


def test_a_given_domain_and_an_embedded_one_are_no_file_s_by_accident(files):
    code, prose = files("mine/code.jsonl", "mine/prose.jsonl")
    other = files("x.jsonl")[0]
    found = sources_of(DataConfig(train=[f"code={other}", code]), "train")
    assert [source.domains for source in found] == [("code",), ("mine/code",)]
    found = sources_of(DataConfig(train=["zoo", prose]), "train")
    assert [source.domains for source in found] == [(), ("mine/prose",)]


def test_two_folders_of_data_sets_are_two_domains_of_the_split_asked_for(files):
    names = [
        f"{top}/data/{split}-00000-of-00001.jsonl"
        for top in ("novels", "letters")
        for split in ("train", "validation")
    ]
    files(*names)
    folder = files("x.jsonl")[0].removesuffix("/x.jsonl")
    both = [f"{folder}/novels", f"{folder}/letters"]
    data = {"train": both, "eval": both}
    train, held = read("train", **data), read("eval", **data)
    assert [s.domain for s in train] == ["novels"] * 2 + ["letters"] * 2
    assert [s.domain for s in held] == ["novels"] * 2 + ["letters"] * 2
    assert all("/train-" in s.text for s in train)
    assert all("/validation-" in s.text for s in held)
    assert len({s.id for s in train + held}) == 8


def test_what_a_folder_holds_beside_its_split_is_said(files):
    files("d/train.jsonl", "d/test.jsonl", "d/LICENSE.txt")
    folder = files("x.jsonl")[0].replace("x.jsonl", "d")
    config = {"student": {"model": "zoo:student"}, "data": {"train": [folder]}}
    (sentence,) = source_warnings(load_config(config))
    assert sentence == (
        f"data.train: of {folder}, 1 file is read and these left out: 1 file about "
        "the text: LICENSE.txt; 1 file of the split test: test.jsonl; name a file to "
        "read it"
    )


@pytest.mark.parametrize(
    ("config", "warned"),
    [
        ({"student": {"model": "gpt2"}}, "with 'gpt2', all that is learned from"),
        ({"teachers": ["./opt"], "student": {"model": "zoo:student"}}, "'./opt'"),
        ({"student": {"model": "zoo:student"}, "teachers": ["zoo:qwen-code"]}, None),
    ],
)
def test_models_of_ones_own_on_the_embedded_text_are_warned_of(config, warned):
    sentences = source_warnings(load_config(config))
    assert (warned is None) == (not sentences)
    assert all(warned in sentence for sentence in sentences)


def test_sources_are_looked_at_before_work(files, tmp_path):
    good, bad = files("good.jsonl", "bad.jsonl")
    check_sources(DataConfig(train=[good]))
    (tmp_path / "bad.jsonl").write_text('{"body": "a"}', encoding="utf-8")
    for key in ("train", "eval"):
        data = {"train": [good], key: [f"d={bad}"]}
        with pytest.raises(InputError, match=rf"data\.{key}: .*bad\.jsonl, line 1: no"):
            check_sources(DataConfig(**data))
        data[key] = [f"d={tmp_path / 'gone.jsonl'}"]
        with pytest.raises(MissingFileError, match=rf"data\.{key}: no text at .*gone"):
            check_sources(DataConfig(**data))


ROWS = [
    {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
    *({"text": f"Text number {n}."} for n in range(20)),
    {"text": None},
]


def test_bad_rows_stop_or_are_left_out_and_counted(tmp_path, tiny_zoo):
    from teacher.loading.models import load_model

    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    tokenizer = load_model(str(tiny_zoo["student"]), role="student").tokenizer
    encode = Encoder(tokenizer, 32)
    with pytest.raises(InputError, match=r"line 1: messages\[0\]\.content has a part"):
        check_sources(DataConfig(train=[str(path)]))
    config = DataConfig(train=[str(path)], on_bad_row="skip")
    check_sources(config)
    data = load_data(config, encode, 0)
    assert len(data.train) + len(data.eval) == 20
    (sentence,) = [s for s in data.warnings if "left out" in s]
    assert sentence.startswith("2 rows hold no text and were left out, first: ")
    assert "line 1: messages[0].content has a part of type 'image'" in sentence


@pytest.fixture
def no_models(monkeypatch):
    """Fail where a model would be loaded."""

    def refuse(*_, **__):
        raise AssertionError("a model is loaded")

    # Each where it is looked up: a module that is first imported now would keep it.
    monkeypatch.setattr("experiments.run.opening.Models", refuse)
    monkeypatch.setattr("experiments.extraction.context.Models", refuse)
    monkeypatch.setattr("experiments.report.measure.load_model", refuse)


@pytest.mark.usefixtures("no_models")
@pytest.mark.parametrize("command", ["train", "extract", "estimate"])
def test_a_misspelt_path_is_found_before_models_are_loaded(
    tiny_zoo, tmp_path, capsys, command
):
    gone = tmp_path / "gone.txt"
    for key in ("train", "eval"):
        config = small_config(tmp_path, tiny_zoo, {"data": {key: [str(gone)]}})
        code, message = said([command, str(config)], capsys)
        assert code == 2 and f"data.{key}: no text at {gone}" in message


@pytest.mark.usefixtures("no_models")
def test_eval_looks_at_its_text_before_models(tiny_zoo, tmp_path, capsys):
    config = small_config(tmp_path, tiny_zoo)
    run = tmp_path / "run"
    (run / "phases" / "1-dual" / "student").mkdir(parents=True)
    (run / "config.yaml").write_bytes(config.read_bytes())
    words = ["eval", str(run), "--data", f"news={tmp_path / 'gone.csv'}"]
    code, message = said(words, capsys)
    assert code == 2 and "data.eval: no text at" in message


def test_measuring_says_what_was_left_out_of_held_out_text_alone(files, capsys):
    from experiments.report.measure import _with_text

    files("d/train.jsonl", "d/test.jsonl")
    folder = files("x.jsonl")[0].replace("x.jsonl", "d")
    run = load_config({"student": {"model": "./s"}})  # which learned from [zoo]
    assert _with_text(run, [folder]).data.eval == [folder]
    assert capsys.readouterr().err == (
        f"warning: data.eval: of {folder}, 1 file is read and these left out: 1 file "
        "of the split train: train.jsonl; name a file to read it\n"
    )


def test_an_unknown_domain_of_the_mix_is_refused_before_any_model(files, tmp_path):
    news, *_ = files("news.jsonl", "de.txt", "en.txt")
    pairs = {"en-de": {"source": f"{tmp_path}/en.txt", "target": f"{tmp_path}/de.txt"}}
    there = {"train": ["zoo", news, f"law={news}"], "pairs": pairs}
    config = build(DataConfig, there)
    assert domains_of(config) == ["prose", "code", "news", "law", "en-de"]
    check_sources(replace(config, mix={"law": 2.0, "code": 0.5, "en-de": 1.0}))
    with pytest.raises(InputError, match=r"data\.mix: .*'nwes'; valid are prose, code"):
        check_sources(replace(config, mix={"nwes": 2.0}))
