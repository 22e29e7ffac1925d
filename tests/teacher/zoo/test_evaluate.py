import math

import pytest
import torch

from teacher.zoo.evaluate import _next_token_bits, _span_bits, _windows, held_out
from teacher.zoo.objectives import IGNORE
from teacher.zoo.recipes import recipes


def loaded(path, auto):
    from transformers import AutoTokenizer

    model = auto.from_pretrained(path).eval()
    return model, AutoTokenizer.from_pretrained(path)


def test_next_token_bits_are_the_librarys_loss_times_the_tokens(tiny_zoo):
    from transformers import AutoModelForCausalLM

    model, tokenizer = loaded(tiny_zoo["qwen-code"], AutoModelForCausalLM)
    texts = ["def f(x):\n    return x\n", "import os, 深度\n"]
    expected = 0.0
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            row = torch.tensor([[tokenizer.bos_token_id, *ids]])
            expected += float(model(input_ids=row, labels=row).loss) * len(ids)
        nats, chars = _next_token_bits(model, tokenizer, texts)
    assert nats == pytest.approx(expected, rel=1e-4)
    assert chars == sum(map(len, texts))


def test_windows_predict_every_token_once():
    ids = torch.arange(11)[None]
    inputs, labels = _windows(ids, ids, limit=4)
    targets = labels[:, 1:][labels[:, 1:] != IGNORE]
    assert sorted(targets.tolist()) == list(range(1, 11))
    assert inputs[1].tolist() == [3, 4, 5, 6]


def test_a_model_that_knows_nothing_pays_the_size_of_its_vocabulary(tiny_zoo):
    from transformers import AutoModelForSeq2SeqLM

    model, tokenizer = loaded(tiny_zoo["t5-mixed"], AutoModelForSeq2SeqLM)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        nats, chars = _span_bits(model, tokenizer, ["x = 12 + y\n" * 30])
    tokens = nats / math.log(len(tokenizer))
    assert tokens == pytest.approx(14, abs=0.01)  # 15 % of the window of 96
    assert 14 <= chars <= 14 * 6


@pytest.mark.parametrize("name", ["gpt2-prose", "bert-mixed"])
def test_the_manifest_holds_what_a_loaded_model_measures(tiny_zoo, name):
    import json

    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    auto = AutoModelForMaskedLM if name == "bert-mixed" else AutoModelForCausalLM
    model, tokenizer = loaded(tiny_zoo[name], auto)
    told = json.loads((tiny_zoo[name] / "zoo.json").read_text())["bits_per_char"]
    measured = held_out(recipes("tiny")[name], model, tokenizer)
    assert measured == pytest.approx(told, rel=1e-3)
