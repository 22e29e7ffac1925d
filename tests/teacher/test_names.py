"""One name means one model, whoever asks for it."""

import pytest
import torch

from align.errors import InputError
from experiments.assemble.fingerprint import model_files
from experiments.commands.viz import num_layers
from experiments.estimate.shapes import planned_model
from teacher import TeacherKVExtractor, load_model
from teacher.names import check_length, model_source, zoo_parts


@pytest.fixture
def cache(tiny_zoo, monkeypatch):
    """The tiny zoo as the only one there is."""
    folder = tiny_zoo["gpt2-prose"]
    monkeypatch.setenv("MTKD_CACHE", str(folder.parents[2]))
    return folder


def test_a_scale_stands_before_the_models_name():
    assert zoo_parts("zoo:gpt2-prose") == ("default", "gpt2-prose")
    assert zoo_parts("zoo:tiny/gpt2-prose") == ("tiny", "gpt2-prose")


def test_every_door_takes_a_zoo_name_with_its_scale(cache):
    name = "zoo:tiny/gpt2-prose"
    assert model_source(name) == str(cache)
    loaded = load_model(name)
    assert loaded.name == name
    layers = loaded.model.config.num_hidden_layers
    assert num_layers(name) == planned_model(name).sizes.layers == layers
    assert model_files(name) == cache
    (kv,) = TeacherKVExtractor(name).extract_kvs(["one text"])
    assert kv.num_layers == layers and torch.isfinite(kv.k).all()


def test_what_the_zoo_lacks_is_said_with_what_it_has(cache, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no model 'gpt9'\. It has .*gpt2-prose"):
        load_model("zoo:tiny/gpt9")
    with pytest.raises(ValueError, match="huge"):
        load_model("zoo:huge/gpt2-prose")
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="run `mtkd zoo build --scale tiny`"):
        TeacherKVExtractor("zoo:tiny/gpt2-prose")
    assert model_files("zoo:tiny/gpt2-prose") is None


def test_a_folder_and_a_hub_name_stay_what_they_are(tmp_path):
    assert model_source(str(tmp_path)) == str(tmp_path)
    assert model_source("openai-community/gpt2") == "openai-community/gpt2"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        model_source("./absent")


def test_a_name_longer_than_a_files_is_refused_in_short():
    with pytest.raises(InputError, match=r"teachers\.t\.model is .*6,002 characters"):
        check_length("a" * 6000, "teachers.t.model")
    check_length("/".join(["a" * 255] * 3), "teachers.t.model")
