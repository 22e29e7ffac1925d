"""The measurements behind ``capture.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from experiments.bench.capture.models import BATCH, TOKENS, WIDTH, Family, families
from experiments.bench.capture.within import work_within
from experiments.bench.measure import Bar, paired_ratio, show

CAPTURE, SHARE, MEMORY = 1.03, 1.10, 1.05
ROUNDS, FEWER, CALLS = 41, 15, 7


@torch.no_grad()
def measure(names: Sequence[str] = (), quick: bool = False) -> bool:
    """Measure and print; True where all bars are kept.

    Args:
        names: of families; none: all.
        quick: what is clocked within capture alone.
    """
    torch.set_num_threads(1)
    times, shares, memory = [], [], []
    for build in families(names):
        family = build()
        _check_equal(family)
        if quick:
            times += _within(family)
            continue
        ratio = paired_ratio(family.captured, family.plain, ROUNDS)
        times.append(Bar(f"{family.name}: capture / plain", ratio, CAPTURE))
        times += _inside(family)
        depth = family.capture.num_layers
        for layers in (range(depth), range(depth // 2)):
            shares.append(_only_kv(family, layers))
        memory.append(_memory(family))
    print()
    return show(times + shares + memory)


def _within(family: Family) -> list[Bar]:
    """What capture adds, clocked within it."""
    return [
        Bar(f"{family.name}: {name}, within", work_within(work, CALLS), CAPTURE)
        for name, work in family.inside().items()
    ]


def _inside(family: Family) -> list[Bar]:
    """The same, and for comparison, without a bar, whole forwards: the plain one
    against itself, and with the states that the library gives."""
    bars = _within(family)
    for name, work in {
        "plain": family.plain,
        "the library's hidden states": family.states,
        **family.inside(),
    }.items():
        ratio = paired_ratio(work, family.plain, FEWER)
        bars.append(Bar(f"{family.name}: {name} / plain", ratio, math.inf))
    return bars


def _check_equal(family: Family) -> None:
    """Refuse to measure anything that differs from the plain forward.

    Raises:
        AssertionError: naming the family.
    """
    plain, captured = family.plain(), family.captured()
    states = captured.hidden if captured.logits is None else captured.logits
    assert states is not None and torch.equal(plain[0], states), family.name
    kv = family.only_kv(range(family.capture.num_layers)).kv
    assert torch.equal(kv.k, captured.kv.k), family.name
    assert torch.equal(kv.v, captured.kv.v), family.name
    if family.capture.causal:
        model: Any = family.capture.model
        cache = model(family.ids, use_cache=True).past_key_values
        for layer, cached in enumerate(cache.layers):
            assert torch.equal(kv.v[layer], cached.values), family.name
            if not family.capture.has_rotary:
                assert torch.equal(kv.k[layer], cached.keys), family.name
    print(f"{family.name}: equal to the plain forward")


def _only_kv(family: Family, layers: range) -> Bar:
    def candidate() -> object:
        return family.only_kv(layers)

    share = _flops_up_to(family, layers[-1]) / _flops_up_to(family, None)
    ratio = paired_ratio(candidate, family.plain, FEWER)
    name = f"{family.name}: KV of {len(layers)} layers, {ratio:.2f} / share {share:.2f}"
    return Bar(name, ratio / share, SHARE)


def _flops_up_to(family: Family, last: int | None) -> float:
    """FLOPs of the plain forward, all or up to the keys and values of a layer."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(q: Any, k: Any, v: Any, *_: object, **__: object) -> int:
        count: int = sdpa_flop_count(q, k, v)
        return count

    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={op: attention})
    before = []
    capture = family.capture
    chosen = capture._layers[0 if last is None else last].module
    hook = chosen.register_forward_pre_hook(
        lambda *_: before.append(counter.get_total_flops())
    )
    with counter:
        family.plain()
    hook.remove()
    assert any(op == counted for counted in counter.get_flop_counts()["Global"])
    if last is None:
        return float(counter.get_total_flops())
    keys_and_values = capture.num_kv_heads * (capture.k_dim + capture.v_dim)
    return before[0] + 2 * BATCH * TOKENS * WIDTH * (WIDTH + keys_and_values)


def _memory(family: Family) -> Bar:
    kv = family.captured().kv
    kept = sum(x.numel() * x.element_size() for x in (kv.k, kv.v))
    del kv
    expected = _peak(family.plain) + kept
    name = f"{family.name}: peak memory / (plain + {kept / 2**20:.0f} MiB of KV)"
    return Bar(name, _peak(family.captured) / expected, MEMORY)


def _peak(work: Callable[[], object]) -> int:
    """Most bytes that torch's CPU allocator had given out at once during the work."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    events: Any = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [(x.start_ns(), x.nbytes()) for x in events if x.name() == "[memory]"]
    del result
    held = highest = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        highest = max(highest, held)
    return highest
