"""What a model computes and moves, counted, and what that takes on a given machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from align.errors import InputError
from student.evaluators.base import WHOLE, EvalContext, Measured, Metric
from student.evaluators.decoding import Decoder, bytes_of, drawn_prompt
from student.evaluators.size import tensors_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Floating-point operations and bytes, and with a machine's numbers a roofline.

    Operations are those of matrix products, a multiplication and an addition each, as
    PyTorch counts them while it runs; attention counts whole, causal or not. Bytes of a
    token that is written are those of all weights, of the input embeddings one row, and
    of the keys and values before it.

    Source:
        Roofline: Williams, Waterman and Patterson, CACM 2009: the longer one of
        operations over peak and bytes over bandwidth. It is a bound from below.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "prefill_flops": Metric("GFLOP", "lower"),
        "decode_flops": Metric("MFLOP/token", "lower"),
        "decode_bytes": Metric("MB/token", "lower"),
        "intensity": Metric("FLOP/byte", "neither"),
        "roofline_prefill": Metric("ms", "lower"),
        "roofline_decode": Metric("tokens/s", "higher"),
    }
    of_teachers: ClassVar[bool] = False

    prompt_tokens: int = 128
    """Tokens of one text that is read, and after which one is written."""
    tflops: float | None = None
    """What the machine computes at most, in 10^12 operations a second."""
    gb_per_s: float | None = None
    """What its memory gives at most, in 10^9 bytes a second."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            InputError: a number that is not positive, or half of a machine.
        """
        for name in ("prompt_tokens", "tflops", "gb_per_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}; give a number > 0")
        if (self.tflops is None) != (self.gb_per_s is None):
            raise InputError(
                "a roofline takes both tflops and gb_per_s; give the other one, too"
            )

    def __call__(self, ctx: EvalContext) -> Measured:
        """Count a prompt and the token after it."""
        if ctx.subject.writes_targets:
            return ctx.subject.not_asked("cost")
        ids = drawn_prompt(ctx, 1, self.prompt_tokens, 1)
        decoder = Decoder(ctx.subject)
        with _counting() as prefill:
            following = decoder.read(ids)
        cache = bytes_of(decoder.cache)
        with _counting() as decode:
            decoder.read(following)
        weights = weight_bytes(ctx.subject.model)
        read, written = prefill.get_total_flops(), decode.get_total_flops()
        moved = weights + cache
        figures = {
            "prefill_flops": read / 1e9,
            "decode_flops": written / 1e6,
            "decode_bytes": moved / 1e6,
            "intensity": written / moved,
        }
        notes = ["cost: give tflops and gb_per_s of a machine for its roofline"]
        if self.tflops is not None and self.gb_per_s is not None:
            peak, flow = self.tflops * 1e12, self.gb_per_s * 1e9
            figures["roofline_prefill"] = 1e3 * max(read / peak, moved / flow)
            figures["roofline_decode"] = 1 / max(written / peak, moved / flow)
            notes = []
        return Measured(
            {name: {WHOLE: value} for name, value in figures.items()}, notes
        )


def _counting() -> Any:
    """PyTorch's counter, which does not know its own attention on a CPU."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention})


def weight_bytes(model: Any) -> int:
    """Bytes of weights that one token needs.

    Of a table of input embeddings that is not the head, too, one row.
    """
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is table
    total = sum(x.numel() * x.element_size() for x in tensors_of(model))
    if tied:
        return total
    return int(total - (table.shape[0] - 1) * table.shape[1] * table.element_size())
