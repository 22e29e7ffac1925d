"""A packed student is the rounded one, in fewer bytes."""

import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from align.errors import InputError, MissingPackageError
from experiments.making.pack import _codes, pack_student
from plugins.contracts.models.student_maker import small_model
from student.transforms import FakeQuant, put_transformed


def rounded(bits, group, targets="auto"):
    model, plain = small_model(), small_model()
    transform = FakeQuant(bits=bits, group=group, targets=targets)
    transform.attach(model)
    transform.at(1.0, 1)
    put_transformed(model, plain)
    return plain


def test_layers_that_were_not_rounded_are_named():
    codes, others = _codes(rounded(4, 8, ["q_proj"]), 4, 8)
    assert {name.rpartition(".")[2] for name in codes} == {"q_proj"}
    assert "model.layers.0.mlp.up_proj" in others
    assert "lm_head" not in others


def test_a_model_that_lies_on_no_such_grid_is_refused(tmp_path):
    with pytest.raises(InputError, match="none is on a grid of 3 bits with a scale a"):
        _codes(rounded(4, 0), 3, 0)
    with pytest.raises(InputError, match="group is -1; give the inputs that share"):
        pack_student("zoo:student", tmp_path / "out", bits=4, group=-1)
    tiny = GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=8)
    with pytest.raises(InputError, match="no linear layers of PyTorch, as GPT-2's"):
        _codes(GPT2LMHeadModel(tiny), 4, 0)


@pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is not None, reason="it is installed"
)
def test_without_the_library_it_says_what_to_install(tmp_path):
    with pytest.raises(MissingPackageError, match=r"pip install 'mtkd\[packed\]'"):
        pack_student("zoo:student", tmp_path / "out", bits=4, group=0)


@pytest.mark.parametrize(("bits", "group"), [(4, 0), (3, 8), (8, 0)])
def test_transformers_loads_the_very_same_model(tiny_zoo, tmp_path, bits, group):
    pytest.importorskip("compressed_tensors", reason="the extra packed is not there")
    model = AutoModelForCausalLM.from_pretrained(tiny_zoo["qwen-code"])
    transform = FakeQuant(bits=bits, group=group)
    transform.attach(model)
    transform.at(1.0, 1)
    plain = AutoModelForCausalLM.from_pretrained(tiny_zoo["qwen-code"]).eval()
    put_transformed(model, plain)
    folder, out = tmp_path / "student", tmp_path / "packed"
    plain.save_pretrained(folder)
    for file in tiny_zoo["qwen-code"].glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())

    made = pack_student(str(folder), out, bits=bits, group=group)
    assert not made.others
    assert made.size < made.size_before
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    scheme = config["quantization_config"]
    assert (scheme["format"], scheme["quant_method"]) == (
        "pack-quantized",
        "compressed-tensors",
    )
    ids = torch.arange(12)[None]
    packed = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        assert torch.equal(packed(ids).logits, plain(ids).logits)
