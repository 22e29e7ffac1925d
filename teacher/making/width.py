"""The maker ``width``: fewer channels, heads and entries of the residual stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from teacher.making.base import Made, Sample
from teacher.making.parts import (
    KEY,
    OUT,
    QUERY,
    VALUE,
    check_attention,
    check_stream,
    feed_forward,
    head_size,
    key_value_heads,
    norms,
)
from teacher.making.rebuilt import check_plain, rebuilt
from teacher.making.stack import depth_of, layer_stack
from teacher.making.worth import input_worth


class Width:
    """Keep the parts of every layer that its sums owe most to, on a sample.

    What is kept is kept bit for bit, but for norms: a root mean square over fewer
    entries of the residual stream is made the same by its weight and epsilon. So parts
    that add nothing change no logit as they go, up to the order of sums.

    Source:
        Wanda (arXiv:2306.11695): ``E|x_c| ||W[:, c]||`` of an input channel c, summed
        over what is cut as one; there for single weights. Departure: a mean of
        absolute values in place of the root of a mean of squares.
    """

    needs_sample = True

    def __init__(
        self, *, channels: int = 0, groups: int = 0, hidden: int = 0, multiple: int = 1
    ) -> None:
        """Say how many are kept; 0: all.

        Args:
            channels: of the feed-forward, of every layer its own.
            groups: heads of keys and values, with the queries that read them, of every
                layer its own.
            hidden: entries of the residual stream, the same throughout.
            multiple: channels and hidden are rounded up to one of it.

        Raises:
            InputError: numbers that cannot be meant.
        """
        given = {"channels": channels, "groups": groups, "hidden": hidden}
        for name, value in given.items():
            if value < 0:
                raise InputError(f"{name} is {value}; give how many are kept, 0: all")
        if multiple < 1:
            raise InputError(f"multiple is {multiple}; give 1 or more")
        self.channels, self.groups, self.hidden = channels, groups, hidden
        self.multiple = multiple

    def __call__(self, model: nn.Module, sample: Sample | None = None) -> Made:
        """See :meth:`teacher.making.base.StudentMaker.__call__`."""
        assert sample is not None, "makers that need a sample are given one"
        check_plain(model)
        whole: Any = model
        state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        changes: dict[str, Any] = {}
        done = []
        for what, asked, there, cut in (
            ("channels", self.channels, channels_of(model), _cut_channels),
            ("groups", self.groups, key_value_heads(whole.config), _cut_groups),
            ("hidden", self.hidden, whole.config.hidden_size, _narrow),
        ):
            if asked > there:
                raise InputError(
                    f"{what} is {asked}, but {type(model).__name__} has {there}"
                )
            kept = asked if what == "groups" else self._rounded(asked)
            if 0 < kept < there:
                changes |= cut(model, sample, state, kept)
                done.append(f"{kept} of {there} {what}")
        return Made(
            model=rebuilt(model, changes, state),
            layers=tuple(range(depth_of(model))),
            done=f"{', '.join(done) or 'everything'} kept by what sums owe them",
        )

    def _rounded(self, count: int) -> int:
        return math.ceil(count / self.multiple) * self.multiple


State = dict[str, Tensor]


def channels_of(model: nn.Module) -> int:
    """Channels of the first layer's feed-forward; without one that is known none can
    be kept but all."""
    try:
        down = feed_forward(model).down
    except InputError:
        return 10**9  # cutting says why
    return len(_inputs(layer_stack(model)[1][0].get_submodule(down)))


def _cut_channels(
    model: nn.Module, sample: Sample, state: State, count: int
) -> Mapping[str, Any]:
    row = feed_forward(model)
    whole: Any = model
    name, stack = layer_stack(model)
    down = {f"{name}.{i}.{row.down}": i for i in range(len(stack))}
    for place, worth in input_worth(model, sample, down).items():
        kept = _best(worth, count)
        _take(model, state, place, 1, kept)
        blocks = [kept + block * len(worth) for block in range(row.blocks)]
        for up in row.up:
            _take(model, state, f"{name}.{down[place]}.{up}", 0, torch.cat(blocks))
    setting = row.setting if hasattr(whole.config, row.setting) else "intermediate_size"
    return {setting: count}


def _cut_groups(
    model: nn.Module, sample: Sample, state: State, count: int
) -> Mapping[str, Any]:
    check_attention(model, "groups")
    whole: Any = model
    config = whole.config
    size, groups = head_size(config), key_value_heads(config)
    queries = config.num_attention_heads // groups
    name, stack = layer_stack(model)
    out = {f"{name}.{i}.{OUT}": i for i in range(len(stack))}
    for place, worth in input_worth(model, sample, out).items():
        best = _best(worth.view(groups, -1).sum(1), count)
        read = _stretches(best, queries * size)
        _take(model, state, place, 1, read)
        _take(model, state, f"{name}.{out[place]}.{QUERY}", 0, read)
        for part in (KEY, VALUE):
            kept = _stretches(best, size)
            _take(model, state, f"{name}.{out[place]}.{part}", 0, kept)
    return {
        "num_attention_heads": count * queries,
        "num_key_value_heads": count,
        "head_dim": size,
    }


def _narrow(
    model: nn.Module, sample: Sample, state: State, count: int
) -> Mapping[str, Any]:
    check_stream(model)
    whole: Any = model
    config, row = whole.config, feed_forward(model)
    name, stack = layer_stack(model)
    reads = [QUERY, KEY, VALUE, *row.up]
    readers = [f"{name}.{i}.{part}" for i in range(len(stack)) for part in reads]
    shares = input_worth(model, sample, readers).values()
    kept = _best(sum((w / w.sum() for w in shares), torch.zeros(())), count)
    for place in readers:
        _take(model, state, place, 1, kept)
    for index in range(len(stack)):
        for part in (OUT, row.down):
            _take(model, state, f"{name}.{index}.{part}", 0, kept)
    for owner in (whole.get_input_embeddings(), whole.get_output_embeddings()):
        place = next(n for n, module in model.named_modules() if module is owner)
        state[f"{place}.weight"] = state[f"{place}.weight"][:, kept]
    more = config.hidden_size / count
    for norm in norms(model):
        weight = state[f"{norm}.weight"][kept]
        state[f"{norm}.weight"] = weight * more**0.5
    eps = config.rms_norm_eps * more
    return {"hidden_size": count, "rms_norm_eps": eps, "head_dim": head_size(config)}


def _inputs(linear: nn.Module) -> Sequence[int]:
    """The numbers of a linear layer's input channels."""
    weight: Any = linear.weight
    return range(weight.shape[0 if _is_transposed(linear) else 1])


def _is_transposed(linear: nn.Module) -> bool:
    """Whether a weight is (in, out), as GPT-2's."""
    return type(linear).__name__ == "Conv1D"


def _take(model: nn.Module, state: State, place: str, axis: int, kept: Tensor) -> None:
    """Keep outputs (axis 0) or inputs (1) of a linear layer, in place."""
    if _is_transposed(model.get_submodule(place)):
        state[f"{place}.weight"] = state[f"{place}.weight"].index_select(1 - axis, kept)
    else:
        state[f"{place}.weight"] = state[f"{place}.weight"].index_select(axis, kept)
    bias = f"{place}.bias"
    if axis == 0 and bias in state:
        state[bias] = state[bias][kept]


def _best(worth: Tensor, count: int) -> Tensor:
    """The numbers of the most valuable, ascending; of equal ones the first."""
    return worth.sort(descending=True, stable=True).indices[:count].sort().values


def _stretches(numbers: Tensor, size: int) -> Tensor:
    """``size`` entries for each of some numbers."""
    return (numbers[:, None] * size + torch.arange(size)).flatten()
