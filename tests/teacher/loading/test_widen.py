import pytest
import torch

from align.support import cpu
from teacher.loading import widen


@pytest.fixture
def narrow():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(
        torch.bfloat16
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_without_products_of_16_bits_the_same_weights_calculate_in_float32(
    dtype, narrow, monkeypatch
):
    monkeypatch.setattr(widen, "pays", lambda kind: kind == torch.float32)
    model = narrow.to(dtype)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    said = widen.widen(model, torch.device("cpu"))
    assert said == str(dtype).removeprefix("torch.")
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name].to(x.dtype))
        assert x.dtype in (torch.float32, torch.int64)
    assert widen.widen(model, torch.device("cpu")) == ""


@pytest.mark.parametrize(("device", "faster"), [("cpu", True), ("cuda", False)])
def test_products_that_pay_and_other_devices_keep_the_type(
    device, faster, narrow, monkeypatch
):
    monkeypatch.setattr(widen, "pays", lambda kind: faster)
    assert widen.widen(narrow, torch.device(device)) == ""
    assert narrow[0].weight.dtype == torch.bfloat16


def test_float32_always_pays_and_bfloat16_where_it_is_quicker(monkeypatch):
    for quicker in (True, False):
        monkeypatch.setattr(cpu, "bf16_pays", lambda quicker=quicker: quicker)
        assert cpu.pays(torch.bfloat16) is quicker
    assert cpu.pays(torch.float32) and cpu.pays(torch.float64)
