"""Linear layers whose frozen weights take one byte each, or half of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from align.errors import InputError
from align.support.extras import bitsandbytes
from align.support.field_types import checked
from align.support.text_part import text_modules
from teacher.teacher_config import Quantisation

BLOCK, OUTER_BLOCK = 64, 256
"""Weights that share a scale in 4 bits, and scales that share one of theirs."""


def quantise(model: nn.Module, kind: str, device: torch.device | None = None) -> int:
    """Hold the weights of a model's linear layers in 8 or 4 bits, in place.

    Token embeddings, norms and the language-model head stay as they are: the first two
    are no matrix products, and objectives on outputs read the head's own matrix. So do
    the towers of a composite, through which no text runs.

    Args:
        model: of transformers; on the CPU, or on ``device`` already.
        kind: of :data:`Quantisation`; ``none`` does nothing.
        device: where the quantised layers go, one at a time, so that the whole model
            is never there in full precision; None leaves them.

    Returns:
        How many layers were quantised.

    Raises:
        ValueError: an unknown kind, no linear layer to quantise, or 4 bits without
            bitsandbytes.
    """
    checked(Quantisation, kind, "quantise")
    if kind == "none":
        return 0
    layers = linear_layers(model)
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no linear layer to hold in {kind}; load it "
            "with quantise=none"
        )
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        new = QuantisedLinear(layer, kind, device)
        setattr(model.get_submodule(parent), attribute, new)
    return len(layers)


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """The layers that may be quantised, by their dotted names.

    GPT-2's ``Conv1D`` is one of them: a linear layer with its matrix on its side.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in text_modules(model).items()
        if type(layer) in (nn.Linear, Conv1D) and layer is not head
    }


class QuantisedLinear(nn.Linear):
    """``x @ W.T + bias`` by a frozen ``W`` that is made whole for the product alone.

    ``int8``: a row's largest magnitude is 127, and every weight is rounded to a whole
    number. ``int4``: sixteen levels at the quantiles of a normal distribution, scaled
    by the largest magnitude of each ``BLOCK`` weights; these scales are held in 8 bits.

    Gradient passes through to ``x``; the whole ``W`` is not kept for it but made again.

    Source:
        4 bits: NF4 with double quantisation, Dettmers et al. 2023, QLoRA (arXiv
        2305.14314), by bitsandbytes' kernels.
    """

    scale: Tensor
    """int8: (out, 1) float32. int4: one byte for each ``BLOCK`` weights."""
    outer_scale: Tensor
    levels: Tensor
    centre: Tensor

    def __init__(
        self, layer: nn.Module, kind: str, device: torch.device | None = None
    ) -> None:
        """Quantise a layer's weights.

        Args:
            layer: an ``nn.Linear``, or a ``Conv1D``, whose matrix is (in, out).
            kind: ``int8`` or ``int4``.
            device: see :func:`quantise`.

        Raises:
            ValueError: 4 bits without bitsandbytes.
        """
        held: Any = layer
        matrix: Tensor = held.weight.detach()
        matrix = matrix.to(device) if device is not None else matrix
        matrix = (matrix if isinstance(layer, nn.Linear) else matrix.T).contiguous()
        rows, columns = matrix.shape
        super().__init__(columns, rows, bias=False, device="meta")
        self.kind = kind
        # Frozen parameters, not buffers: what is trained and buffers go to checkpoints.
        for name, value in (_int8 if kind == "int8" else _int4)(matrix).items():
            setattr(self, name, nn.Parameter(value, requires_grad=False))
        if held.bias is not None:
            self.bias = nn.Parameter(held.bias.detach().to(matrix.device), False)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out), in the type of autocast where that is on."""
        device = input.device.type
        dtype = input.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        out: Tensor = _Product.apply(input.to(dtype), self)
        return out if self.bias is None else out + self.bias.to(dtype)

    def whole(self, dtype: torch.dtype) -> Tensor:
        """The (out, in) weights that are meant."""
        if self.kind == "int8":
            return self.weight.to(dtype).mul_(self.scale)
        library = _bitsandbytes()
        scale = library.dequantize_blockwise(
            self.scale.view(torch.uint8),
            absmax=self.outer_scale,
            code=self.levels,
            blocksize=OUTER_BLOCK,
        )
        whole: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
            self.weight.view(torch.uint8),
            scale + self.centre,
            BLOCK,
            "nf4",
            (self.out_features, self.in_features),
            dtype,
        )
        return whole

    def extra_repr(self) -> str:
        """As PyTorch prints it, with the kind."""
        return f"{super().extra_repr()}, {self.kind}"


class _Product(torch.autograd.Function):
    """``x @ W.T`` that remembers the layer in place of ``W``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.whole(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.layer.whole(grad.dtype), None


def _int8(matrix: Tensor) -> dict[str, Tensor]:
    whole = matrix.float()
    scale = whole.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return {"weight": (whole / scale).round().to(torch.int8), "scale": scale}


def _int4(matrix: Tensor) -> dict[str, Tensor]:
    weight, state = _bitsandbytes().quantize_4bit(
        matrix, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
    )
    outer = state.state2
    return {
        # Bytes are called int8: T5 would cast its input to any other type it finds.
        "weight": weight.view(torch.int8),
        "scale": state.absmax.view(torch.int8),
        "outer_scale": outer.absmax,
        "levels": outer.code,
        "centre": state.offset.view(1),  # DeepSpeed cannot send a scalar
    }


def _bitsandbytes() -> Any:
    library = bitsandbytes("a model in int4", "choose int8, which needs nothing")
    return library.functional
