import pytest
import torch

from teacher.zoo.packed import LEVELS, WEIGHTS, pack, quantise, unpack


def test_a_row_is_rounded_to_its_own_scale():
    weight = torch.tensor([[31.0, -15.4, 0.6], [0.31, 0.0, -0.02], [0.0, 0.0, 0.0]])
    numbers, scales = quantise(weight)
    assert numbers.tolist() == [[31, -15, 1], [31, 0, -2], [0, 0, 0]]
    torch.testing.assert_close(scales[:2, 0], torch.tensor([1.0, 0.01]))


def test_an_outlier_is_cut_where_that_loses_less():
    torch.manual_seed(0)
    weight = torch.randn(4, 2000)
    numbers, scales = quantise(weight)
    peak = weight.abs().amax(1, keepdim=True) / LEVELS
    plain = (weight / peak).round() * peak
    loss = (numbers * scales - weight).square().sum(1)
    assert bool((loss < (plain - weight).square().sum(1)).all())
    assert int(numbers.abs().max()) <= LEVELS


@pytest.mark.parametrize("name", ["gpt2-prose", "t5-mixed"])
def test_a_packed_model_is_one_file_and_loads_as_it_was(tiny_zoo, tmp_path, name):
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    archive, again = tmp_path / "one.zip", tmp_path / "two.zip"
    pack(tiny_zoo[name], archive)
    pack(tiny_zoo[name], again)
    assert archive.read_bytes() == again.read_bytes()
    folder = tmp_path / "model"
    folder.mkdir()
    unpack(archive, folder)
    before = load_file(tiny_zoo[name] / WEIGHTS)
    after = load_file(folder / WEIGHTS)
    assert before.keys() == after.keys()
    for key, weight in before.items():
        error = (after[key] - weight).norm() / weight.norm().clamp_min(1e-9)
        assert error < (0.03 if weight.dim() == 2 else 1e-9), key
    AutoModel.from_pretrained(folder)
    text = "def unbelievable(深度): return 1"
    expected = AutoTokenizer.from_pretrained(tiny_zoo[name])(text).input_ids
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids == expected
