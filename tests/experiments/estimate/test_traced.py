"""What a model's passes hold, on tensors without bytes."""

import pytest
import torch
from torch.nn import functional

from experiments.estimate.traced import How, passes


class Keeping(torch.autograd.Function):
    """A linear layer that keeps its output, as one in PyTorch's place may."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        out = x @ weight.T
        ctx.save_for_backward(x, weight, out.clone())
        return out if bias is None else out + bias

    @staticmethod
    def backward(ctx, slope):
        x, weight, _ = ctx.saved_tensors
        flat = slope.flatten(0, -2)
        return slope @ weight, flat.T @ x.flatten(0, -2), flat.sum(0)


def _other_linear(patch):
    """As DeepSpeed leaves it behind ZeRO 3."""
    wrapped = lambda x, weight, bias=None: Keeping.apply(x, weight, bias)  # noqa: E731
    patch.setattr(functional, "linear", wrapped)
    return lambda: functional.linear is wrapped


def _no_flash(_):
    torch.backends.cuda.enable_flash_sdp(False)
    return lambda: not torch.backends.cuda.flash_sdp_enabled()


def _no_cache(_):
    torch.set_autocast_cache_enabled(False)
    return lambda: not torch.is_autocast_cache_enabled()


@pytest.fixture
def restored():
    yield
    torch.backends.cuda.enable_flash_sdp(True)
    torch.set_autocast_cache_enabled(True)


@pytest.mark.slow
@pytest.mark.parametrize("change", [_other_linear, _no_flash, _no_cache])
def test_what_others_have_set_in_pytorch_changes_no_plan(change, restored, monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoXConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    how = How(dtype=torch.float32, autocast=torch.bfloat16, trained=True)
    expected = passes(config, 2, 16, how)
    still_set = change(monkeypatch)
    assert passes(config, 2, 16, how) == expected
    assert still_set()
