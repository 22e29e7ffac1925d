"""Objectives that break a promise, each by name."""

import torch

from student.objective import ATTENTION
from student.terms import attention_kl, key_distance
from tests.plugins.broken.late import after


def of(function, needs=frozenset()):
    """A factory of objectives that call a function."""

    class Made:
        def __init__(self):
            self.needs = needs

        def __call__(self, ctx):
            return function(ctx)

    return Made


def not_a_number(ctx):
    return key_distance(ctx) * torch.nan


def nan_without_weight(ctx):
    total = ctx.zero()
    for c in ctx.comparisons:
        apart = (c.pred_k - c.target_k).square().mean((0, 3))
        total = total + (apart * c.weight).sum() / c.weight.sum()
    return total


def a_vector(ctx):
    return key_distance(ctx).expand(3)


def a_float(ctx):
    return float(key_distance(ctx).detach())


def detached(ctx):
    return key_distance(ctx).detach()


def detached_and_asking(ctx):
    return key_distance(ctx).detach().requires_grad_()


def writes_to_targets(ctx):
    for c in ctx.comparisons:
        c.target_k.mul_(2)
    return key_distance(ctx)


def writes_in_secret(ctx):
    for c in ctx.comparisons:
        c.weight.data.zero_()
    return key_distance(ctx)


def writes_to_ids(ctx):
    ctx.batch.ids.zero_()
    return key_distance(ctx)


def asks_targets_for_gradients(ctx):
    for c in ctx.comparisons:
        c.target_k.requires_grad_()
    return key_distance(ctx)


def goes_backward(ctx):
    value = key_distance(ctx)
    value.backward(retain_graph=True)
    return value


def for_the_largest_teacher(ctx):
    return max(ctx.comparisons, key=len).distance("k").mean()


def raises(ctx):
    raise IndexError("no such layer")


def loses_lazy_ones(ctx):
    """Takes fields from where they do not lie in every space."""
    return sum(vars(c)["pred_k"].square().mean() for c in ctx.comparisons)


def doubles_the_default_dtype(ctx):
    torch.set_default_dtype(torch.float64)
    return key_distance(ctx)


GOOD = of(key_distance)


def without_needs():
    return key_distance


BROKEN = {
    "nan": of(not_a_number),
    "nan_without_weight": of(nan_without_weight),
    "a_vector": of(a_vector),
    "a_float": of(a_float),
    "detached": of(detached),
    "detached_and_asking": of(detached_and_asking),
    "writes_to_targets": of(writes_to_targets),
    "writes_in_secret": of(writes_in_secret),
    "writes_to_ids": of(writes_to_ids),
    "asks_targets_for_gradients": of(asks_targets_for_gradients),
    "goes_backward": of(goes_backward),
    "raises": of(raises),
    "raises_type_error": of(for_the_largest_teacher),
    "one_space_only": of(loses_lazy_ones),
    "default_dtype": of(doubles_the_default_dtype),
    "without_needs": without_needs,
    "needs_is_a_list": of(key_distance, ["attention"]),
    "unknown_need": of(key_distance, frozenset({"gradients"})),
    "attention_unsaid": of(attention_kl),
    "nan_after_15_calls": after(15, GOOD, of(not_a_number)),
    "writes_after_15_calls": after(15, GOOD, of(writes_to_targets)),
}
"""What a contract has to find."""

assert ATTENTION == "attention"

LATE = {
    "nan_late": after(1000, GOOD, of(not_a_number), by_text=True),
    "a_vector_late": after(1000, GOOD, of(a_vector), by_text=True),
    "a_float_late": after(1000, GOOD, of(a_float), by_text=True),
    "detached_late": after(1000, GOOD, of(detached), by_text=True),
    "writes_in_secret_late": after(1000, GOOD, of(writes_in_secret), by_text=True),
    "writes_to_ids_late": after(1000, GOOD, of(writes_to_ids), by_text=True),
    "raises_late": after(1000, GOOD, of(raises), by_text=True),
}
"""What only shows in a run."""
