import pytest
import torch

from align.products import cpu
from experiments.sources.making import Making
from teacher.loading import widen
from teacher.teacher_config import TeacherConfig


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


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_a_teacher_is_known_by_the_types_that_it_was_loaded_in(
    kind, tiny_zoo, monkeypatch
):
    """A run that began where there are such products goes on where there are none."""

    def loaded(faster):
        monkeypatch.setattr(widen, "pays", lambda dtype: faster)
        making = Making(
            name="a",
            entry=TeacherConfig(model="", dtype="bfloat16", quantise=kind),
            device=torch.device("cpu"),
            make_student=None,
            student_tokenizer=None,
        )
        return making.load(str(tiny_zoo["gpt2-prose"]))

    with_products, without = loaded(True), loaded(False)
    assert without.capture.model.get_input_embeddings().weight.dtype == torch.float32
    assert without.weight_types == with_products.weight_types
    assert "bfloat16" in without.weight_types
    pairs = zip(
        with_products.loaded.model.parameters(),
        without.loaded.model.parameters(),
        strict=True,
    )
    assert all(torch.equal(x.to(y.dtype), y) for x, y in pairs)
