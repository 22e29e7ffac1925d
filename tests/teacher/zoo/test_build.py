import os
import threading
import time

import pytest
import torch

from align.foreign.seal import sealed_text
from teacher.zoo import build, build_zoo, list_zoo, zoo_path, zoo_table
from teacher.zoo.recipes import recipes


def test_every_model_loads_with_its_auto_class(tiny_zoo):
    from transformers import AutoModel, AutoTokenizer

    assert list(tiny_zoo) == list(recipes("tiny"))
    for name, path in tiny_zoo.items():
        model = AutoModel.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        assert model.config.model_type == recipes("tiny")[name].family
        assert model.config.vocab_size == len(tokenizer)
        assert (path / "model.safetensors").is_file()


def test_files_can_be_read_by_whom_the_umask_allows(tiny_zoo):
    umask = os.umask(0)
    os.umask(umask)
    for path in tiny_zoo.values():
        for file in path.iterdir():
            assert file.stat().st_mode & 0o777 == 0o666 & ~umask, file


def test_training_beats_a_uniform_guess_and_the_student_stays_untrained(tiny_zoo):
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        PreTrainedTokenizerFast,
    )

    from teacher.zoo.evaluate import held_out

    entries = {e.name: e for e in list_zoo(_cache(tiny_zoo), "tiny")}
    assert entries["student"].measure == "untrained"
    for name in ("gpt2-prose", "qwen-code", "neox-mixed"):
        path, recipe = tiny_zoo[name], recipes("tiny")[name]
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        for parameter in model.parameters():
            parameter.data.zero_()  # every token is then as likely as any other
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(path / "tokenizer.json"),
            bos_token=AutoTokenizer.from_pretrained(path).bos_token,
        )
        with torch.no_grad():
            guess = held_out(recipe, model, tokenizer)
        trained = entries[name].bits_per_char
        assert sum(trained.values()) < 0.95 * sum(guess.values()), name


def test_a_second_build_trains_nothing(tiny_zoo, monkeypatch):
    monkeypatch.setattr(build, "_build_all", _fail)
    assert build_zoo(cache_dir=_cache(tiny_zoo), scale="tiny") == tiny_zoo


@pytest.fixture
def untrained(monkeypatch):
    """Models as they are drawn, where a test is about who builds what."""
    monkeypatch.setattr("teacher.zoo.train.fit", lambda *given: None)


@pytest.mark.slow
def test_a_changed_recipe_makes_a_model_out_of_date(tiny_zoo, untrained, tmp_path):
    path = tmp_path / "zoo" / "tiny" / "student"
    path.mkdir(parents=True)
    told = {**build.read_manifest(tiny_zoo["student"]), "fingerprint": "0" * 16}
    told.pop("sizes", None)
    (path / build.MANIFEST).write_text(sealed_text(told))
    with pytest.raises(FileNotFoundError, match=r"'student' is out of date.*mtkd zoo"):
        zoo_path("student", tmp_path, "tiny")
    build_zoo(["student"], tmp_path, progress=False, scale="tiny")
    assert (zoo_path("student", tmp_path, "tiny") / "model.safetensors").is_file()


@pytest.mark.slow
def test_one_recipe_gives_one_set_of_weights_and_a_log_hears_of_it(
    tiny_zoo, tmp_path, capsys
):
    from safetensors.torch import load_file

    again = build_zoo(["gpt2-prose"], tmp_path, scale="tiny")
    said = capsys.readouterr()
    assert "zoo: gpt2-prose is ready (bits per character: " in said.err
    assert said.out == ""
    first = load_file(tiny_zoo["gpt2-prose"] / "model.safetensors")
    for name, weight in load_file(again["gpt2-prose"] / "model.safetensors").items():
        assert torch.equal(weight, first[name]), name


@pytest.mark.slow
def test_finished_models_are_kept_when_another_fails(untrained, tmp_path, monkeypatch):
    from teacher.zoo import train

    real = train.train_model

    def train_model(recipe, *given):
        if recipe.name == "t5-mixed":
            raise ValueError("no such measure")
        return real(recipe, *given)

    monkeypatch.setattr(train, "train_model", train_model)
    with pytest.raises(RuntimeError, match=r"'t5-mixed'.*no such measure.*student"):
        build_zoo(["student", "t5-mixed"], tmp_path, progress=False, scale="tiny")
    assert zoo_path("student", tmp_path, "tiny").is_dir()
    with pytest.raises(FileNotFoundError, match="has not been built"):
        zoo_path("t5-mixed", tmp_path, "tiny")
    left = {p.name for p in (tmp_path / "zoo" / "tiny").iterdir()}
    assert left == {"student", ".student.lock", ".t5-mixed.lock"}


def test_an_interrupt_stops_training_and_leaves_no_half_model(tmp_path, monkeypatch):
    import signal

    from teacher.zoo import train

    monkeypatch.setattr(train, "batch_loss", _interrupted(train.batch_loss))
    # a shell that starts tests in the background has them ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build_zoo(["gpt2-prose"], tmp_path, progress=False, scale="tiny")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list((tmp_path / "zoo" / "tiny").glob("*/model.safetensors"))
    assert not [t for t in threading.enumerate() if t.name.startswith("zoo")]


@pytest.mark.slow
def test_two_builds_at_the_same_time_train_a_model_once(
    untrained, tmp_path, monkeypatch
):
    from teacher.zoo import train

    real, trained = train.train_model, []

    def train_model(recipe, *args):
        trained.append(recipe.name)
        time.sleep(0.5)  # the other build comes while this one holds the lock
        return real(recipe, *args)

    monkeypatch.setattr(train, "train_model", train_model)
    train.load_libraries()
    ask = (["student"], tmp_path, False, "tiny")
    builds = [threading.Thread(target=build_zoo, args=ask) for _ in range(2)]
    for thread in builds:
        thread.start()
    for thread in builds:
        thread.join()
    assert trained == ["student"]
    assert zoo_path("student", tmp_path, "tiny").is_dir()


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "zoo").write_text("a file in the way")
    with pytest.raises(OSError, match="MTKD_CACHE"):
        build_zoo(["student"], tmp_path, progress=False, scale="tiny")


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no model 'gpt5'.*gpt2-prose"):
        zoo_path("gpt5", tmp_path)


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path / "here"))
    (entry, *_) = list_zoo()
    assert entry.path == tmp_path / "here" / "zoo" / "default" / entry.name
    assert not entry.built


def test_the_table_shows_bits_and_what_is_not_built(tiny_zoo, tmp_path):
    from rich.console import Console

    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(zoo_table(_cache(tiny_zoo), "tiny"), zoo_table(tmp_path, "tiny"))
    text = console.export_text()
    bits = list_zoo(_cache(tiny_zoo), "tiny")[0].bits_per_char["prose"]
    assert f"{bits:.3f}" in text
    assert "not built" in text


def _cache(zoo):
    return zoo["student"].parents[2]


def _fail(*args):
    raise AssertionError("nothing was to be built")


def _interrupted(real):
    """Interrupt the main thread at the first step, as Ctrl-C does."""
    import signal

    def batch_loss(*args):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.5)
        return real(*args)

    return batch_loss
