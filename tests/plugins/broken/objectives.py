"""Objectives that break a promise, each by name."""

import numpy as np
import torch
from torch import nn

from student.objective import ATTENTION
from student.terms.key_value import attention_kl, kv_k
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
    return kv_k(ctx) * torch.nan


def nan_without_weight(ctx):
    total = ctx.zero()
    for c in ctx.comparisons:
        apart = (c.pred_k - c.target_k).square().mean((0, 3))
        total = total + (apart * c.weight).sum() / c.weight.sum()
    return total


def a_vector(ctx):
    return kv_k(ctx).expand(3)


def a_float(ctx):
    return float(kv_k(ctx).detach())


def detached(ctx):
    return kv_k(ctx).detach()


def detached_and_asking(ctx):
    return kv_k(ctx).detach().requires_grad_()


def writes_to_targets(ctx):
    for c in ctx.comparisons:
        c.target_k.mul_(2)
    return kv_k(ctx)


def writes_in_secret(ctx):
    for c in ctx.comparisons:
        c.weight.data.zero_()
    return kv_k(ctx)


def writes_to_ids(ctx):
    ctx.batch.ids.zero_()
    return kv_k(ctx)


def asks_targets_for_gradients(ctx):
    for c in ctx.comparisons:
        c.target_k.requires_grad_()
    return kv_k(ctx)


def goes_backward(ctx):
    value = kv_k(ctx)
    value.backward(retain_graph=True)
    return value


def for_the_largest_teacher(ctx):
    return max(ctx.comparisons, key=len).distance("k").mean()


def raises(ctx):
    raise IndexError("no such layer")


def knows_one_space_only(ctx):
    """Takes fields from where they do not lie in every space."""
    return sum(vars(c)["pred_k"].square().mean() for c in ctx.comparisons)


def doubles_the_default_dtype(ctx):
    torch.set_default_dtype(torch.float64)
    return kv_k(ctx)


def detached_later(ctx):
    return kv_k(ctx) if ctx.step < 3 else kv_k(ctx).detach()


def overflows_in_half(ctx):
    return sum(
        (c.pred_k.half() - c.target_k.half()).square().sum(3).float().mean()
        for c in ctx.comparisons
    )


def seeds_numpy(ctx):
    np.random.seed(ctx.step)
    return kv_k(ctx)


class OwnScale:
    """Divides by a running mean of itself that no checkpoint holds."""

    needs = frozenset()
    mean = None

    def __call__(self, ctx):
        value = kv_k(ctx)
        now = float(value.detach())
        self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
        return value / max(self.mean, 1e-6)


class Unlearned(nn.Module):
    """Reads its parameter past autograd."""

    needs = frozenset()

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ctx):
        return kv_k(ctx) * self.scale.item()


def squeezes_one_text(ctx):
    """Loses the axis of texts where there is one, and broadcasts over tokens."""
    total, weight = ctx.zero(), ctx.zero()
    for c in ctx.comparisons:
        apart = c.distance("k").mean(0).squeeze()  # (B, T), or (T,)
        each = apart[:, None] if apart.dim() == 1 else apart
        total = total + (each * c.weight).sum()
        weight = weight + c.weight.sum()
    return total / weight.clamp_min(1e-9)


def over_padding(ctx):
    covered = [(c.distance("k") * c.weight).mean() for c in ctx.comparisons]
    return sum(covered, ctx.zero())


class ChangesItsMind:
    asked = 0

    @property
    def needs(self):
        self.asked += 1
        return frozenset() if self.asked < 3 else frozenset({ATTENTION})

    def __call__(self, ctx):
        return kv_k(ctx)


class CountsPadding:
    """Divides by all places though it sums over those that are covered."""

    needs = frozenset()

    def count(self, places):
        return [float(places.batch.mask.numel())]

    def __call__(self, ctx):
        total, weight = ctx.zero(), ctx.zero()
        for c in ctx.comparisons:
            total = total + (c.distance("k").mean(0) * c.weight).sum()
            weight = weight + c.weight.sum()
        return total / ctx.total(0, weight)


GOOD = of(kv_k)


def without_needs():
    return kv_k


def fitted(fit, base=nn.Module):
    """A factory of objectives that are fitted in some way."""

    class Fitted(base):
        needs = frozenset()

        def __init__(self):
            super().__init__()
            if isinstance(self, nn.Module):
                self.register_buffer("scale", torch.ones(()))

        def fit(self, sample):
            fit(self, sample)

        def __call__(self, ctx):
            return kv_k(ctx) * self.scale

    if base is object:
        Fitted.scale = 1.0
    return Fitted


def in_mean_distance(term, sample):
    distances = [float(kv_k(ctx)) for ctx in sample]
    if sum(distances) > 0:
        term.scale.fill_(len(distances) / sum(distances))


def divides_by_nothing(term, sample):
    term.scale.fill_(1 / torch.tensor(sum(float(kv_k(ctx)) for ctx in sample)))


def writes_while_fitting(term, sample):
    for ctx in sample:
        for c in ctx.comparisons:
            c.target_k.mul_(2)


def draws_without_seed(term, sample):
    term.scale.fill_(next(_DRAWS))


_DRAWS = iter(range(1, 1000))


BROKEN = {
    "fit_divides_by_nothing": fitted(divides_by_nothing),
    "fit_writes_to_targets": fitted(writes_while_fitting),
    "fit_differs": fitted(draws_without_seed),
    "fit_of_no_module": fitted(lambda term, sample: None, object),
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
    "one_space_only": of(knows_one_space_only),
    "detached_later": of(detached_later),
    "overflows_in_half": of(overflows_in_half),
    "seeds_numpy": of(seeds_numpy),
    "squeezes_one_text": of(squeezes_one_text),
    "over_padding": of(over_padding),
    "own_scale": OwnScale,
    "unlearned": Unlearned,
    "changes_its_mind": ChangesItsMind,
    "counts_padding": CountsPadding,
    "default_dtype": of(doubles_the_default_dtype),
    "without_needs": without_needs,
    "needs_is_a_list": of(kv_k, ["attention"]),
    "unknown_need": of(kv_k, frozenset({"gradients"})),
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
