from dataclasses import replace

import pytest
import torch

from teacher.zoo.recipes import recipes
from teacher.zoo.train import (
    _optimizers,
    _training_text,
    initial_model,
    initial_tokenizer,
    rate_factor,
    training_batches,
)


class Tokenizer:
    """What a model's configuration asks of a tokenizer."""

    bos_token_id, eos_token_id, pad_token_id = 0, 1, 2

    def __len__(self) -> int:
        return 300


@pytest.mark.parametrize("name", list(recipes("tiny")))
def test_every_weight_has_one_optimizer_and_tables_are_not_muons(name):
    recipe = recipes("tiny")[name]
    model = initial_model(recipe, Tokenizer())
    (muon, _), (adam, _) = _optimizers(model, recipe)

    def held(optimizer):
        return [id(p) for group in optimizer.param_groups for p in group["params"]]

    assert sorted(held(muon) + held(adam)) == sorted(map(id, model.parameters()))
    assert id(model.get_input_embeddings().weight) in held(adam)
    shapes = {p.ndim for group in muon.param_groups for p in group["params"]}
    assert shapes == {2}


def test_drawing_weights_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = initial_model(recipes("tiny")["student"], Tokenizer())
    assert torch.equal(torch.rand(2), expected)
    second = initial_model(recipes("tiny")["student"], Tokenizer())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_rate_warms_up_then_falls_to_a_twentieth():
    recipe = recipes()["gpt2-prose"]
    train = replace(recipe.train, steps=110, warmup=10)
    recipe = replace(recipe, train=train)
    assert rate_factor(0, recipe) == pytest.approx(0.1)
    assert rate_factor(9, recipe) == pytest.approx(1.0)
    assert rate_factor(60, recipe) == pytest.approx(0.525)
    assert rate_factor(110, recipe) == pytest.approx(0.05)


def test_teachers_never_read_the_students_text():
    tiny = recipes("tiny")
    for domain in ("prose", "code"):
        student = _training_text(tiny["student"], domain)
        teacher = _training_text(replace(tiny["gpt2-prose"], text_chars=None), domain)
        assert student and not set(student) & set(teacher)
        assert sum(map(len, student)) <= 60_000


def test_batches_hold_the_recipes_share_of_each_domain(tiny_zoo):
    from transformers import AutoTokenizer

    recipe = recipes("tiny")["qwen-code"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_zoo["qwen-code"])
    texts = {"prose": ["a" * 30_000], "code": ["1" * 30_000]}
    one = tokenizer.convert_tokens_to_ids("1")
    batches = training_batches(recipe, tokenizer, texts)
    rows = torch.cat([next(batches)["input_ids"][:, 5:20] for _ in range(60)])
    share = (rows == one).any(dim=1).float().mean().item()
    assert share == pytest.approx(recipe.mix["code"], abs=0.08)


def test_an_unknown_scale_is_named_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"'huge'.*default, tiny"):
        recipes("huge")


def test_the_twin_reads_with_the_students_tokenizer_and_more_text():
    strong = recipes("strong")
    twin, student = strong["llama-twin"], strong["student"]
    own, shared = (initial_tokenizer(recipe).get_vocab() for recipe in (student, twin))
    assert own == shared
    text = [sum(map(len, _training_text(r, "code"))) for r in (student, twin)]
    assert text[1] > 5 * text[0]


def test_strong_teachers_are_the_default_families_trained_longer_on_purer_text():
    default, strong = recipes(), dict(recipes("strong"))
    assert strong.pop("llama-twin").tokenizer_of == "student"
    assert strong.pop("student") == default["student"]
    teachers = [model for model in default.values() if model.role == "teacher"]
    for one, longer in zip(teachers, strong.values(), strict=True):
        assert longer.config == one.config
        assert longer.train.steps > one.train.steps
        assert longer.name.endswith(longer.leaning)
    leanings = {model.name: model.leaning for model in strong.values()}
    assert leanings["qwen-code"] == "code" and leanings["neox-prose"] == "prose"
