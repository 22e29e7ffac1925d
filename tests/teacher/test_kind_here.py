import pytest

from teacher.kind_here import kind_here
from teacher.loading.model_config import read_config
from teacher.zoo.recipes import SCALES, recipes


def test_the_kind_of_what_is_on_this_machine_is_known(tiny_zoo):
    kinds = {name: kind_here(str(folder)) for name, folder in tiny_zoo.items()}
    assert kinds["bert-mixed"] == "encoder"
    assert kinds["t5-mixed"] == "encoder-decoder"
    assert {kinds[n] for n in ("gpt2-prose", "qwen-code", "student")} == {"decoder"}


def test_an_embedded_models_kind_is_known_before_it_is_built(tiny_zoo):
    for name, recipe in recipes("tiny").items():
        assert recipe.kind == read_config(str(tiny_zoo[name]))[1]
        assert kind_here(f"zoo:tiny/{name}") == recipe.kind
    assert {m.kind for scale in SCALES for m in recipes(scale).values()} == {
        "decoder",
        "encoder",
        "encoder-decoder",
    }


@pytest.mark.parametrize(
    "name",
    [
        "zoo:none",
        "zoo:none/student",
        "pkg:none",
        "./none",
        "no-such/model",
        "é",
        "x" * 999,
    ],
    ids=range(7),
)
def test_what_is_not_here_has_no_known_kind(name):
    assert kind_here(name) is None


def test_a_known_packages_kind_is_known_before_it_is_fetched():
    assert kind_here("pkg:smollm2") == "decoder"
    assert kind_here("pkg:minilm") == "encoder"
