"""Routers that break a promise, each by name."""

import torch
from torch import nn

from fuse.routers.router import LearnableRouter


class OneHot(LearnableRouter):
    def forward(self, query, available=None):
        chosen = super().forward(query).argmax(-1)
        return nn.functional.one_hot(chosen, self.num_teachers)


class Base(LearnableRouter):
    """A good router whose answer is spoilt."""

    def __init__(self, hidden_dim, num_teachers):
        super().__init__(hidden_dim, num_teachers)
        self.num_teachers, self.calls = num_teachers, 0

    def spoil(self, weights, query):
        return weights

    def forward(self, query, available=None):
        self.calls += 1
        return self.spoil(super().forward(query), query)


def spoilt(function):
    """A router with another answer than its scores'."""
    return type(function.__name__, (Base,), {"spoil": function})


@spoilt
def negative(self, weights, query):
    shift = torch.zeros_like(weights)
    shift[..., 0], shift[..., -1] = 1, -1
    return weights + shift


@spoilt
def unnormalised(self, weights, query):
    return 3 * weights


@spoilt
def not_a_number(self, weights, query):
    return weights * torch.nan


@spoilt
def one_more_teacher(self, weights, query):
    return torch.cat([weights, weights[..., :1] * 0], -1)


@spoilt
def double_of_wrong_axes(self, weights, query):
    return weights.transpose(0, -1)


@spoilt
def detached(self, weights, query):
    return weights.detach()


@spoilt
def detached_and_asking(self, weights, query):
    return weights.detach().requires_grad_()


@spoilt
def without_pull(self, weights, query):
    return weights.detach() + 0 * weights


@spoilt
def by_the_batch(self, weights, query):
    return weights.flatten(0, -2).mean(0).expand_as(weights)


@spoilt
def writes_to_the_query(self, weights, query):
    query.mul_(0)
    return weights


@spoilt
def writes_in_secret(self, weights, query):
    query.data.zero_()
    return weights


@spoilt
def a_list(self, weights, query):
    return [weights]


@spoilt
def raises(self, weights, query):
    raise IndexError("no such expert")


@spoilt
def seeds(self, weights, query):
    torch.manual_seed(4711)
    return weights


@spoilt
def other_weights_each_call(self, weights, query):
    return weights.roll(self.calls % self.num_teachers, -1)


@spoilt
def nan_after_60_calls(self, weights, query):
    return weights * (torch.nan if self.calls > 60 else 1)


class BatchNorm(nn.Module):
    """Each query by itself when it is measured, by its batch while it learns."""

    def __init__(self, hidden_dim, num_teachers):
        super().__init__()
        self.norm = nn.BatchNorm1d(hidden_dim, momentum=0)
        self.score = nn.Linear(hidden_dim, num_teachers)

    def forward(self, query, available=None):
        rows = query.float().reshape(-1, query.shape[-1])
        normed = self.norm(rows) if len(rows) > 1 else rows
        return self.score(normed).softmax(-1).view(*query.shape[:-1], -1)


@spoilt
def takes_threads(self, weights, query):
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)
    return weights


class RunningMean(LearnableRouter):
    """Takes from its scores what they were on average while it trained."""

    def __init__(self, hidden_dim, num_teachers):
        super().__init__(hidden_dim, num_teachers)
        self.register_buffer("mean", torch.zeros(num_teachers))

    def forward(self, query, available=None):
        weights = super().forward(query)
        if not self.training:
            return (weights.float().log() - self.mean).softmax(-1)
        with torch.no_grad():
            seen = weights.float().log().flatten(0, -2).mean(0)
            self.mean.mul_(0.9).add_(0.1 * seen)
        return weights


class DeadNorm(LearnableRouter):
    """Its norm has parameters that nothing reaches."""

    def __init__(self, hidden_dim, num_teachers):
        super().__init__(hidden_dim, num_teachers)
        self.before = nn.LayerNorm(hidden_dim)

    def forward(self, query, available=None):
        with torch.no_grad():
            query = self.before(query.float())
        return super().forward(query)


class Whole(nn.Linear):
    """A router that forgot the softmax."""


class NoModule:
    def __init__(self, hidden_dim, num_teachers):
        self.inner = LearnableRouter(hidden_dim, num_teachers)

    def __call__(self, query):
        return self.inner(query)


class Halves(LearnableRouter):
    """Takes float32 only."""

    def forward(self, query, available=None):
        if query.dtype != torch.float32:
            raise RuntimeError("mat1 and mat2 must have the same dtype")
        return super().forward(query)


class Forgets(LearnableRouter):
    """Keeps a part of itself out of its state."""

    def __init__(self, hidden_dim, num_teachers):
        super().__init__(hidden_dim, num_teachers)
        self.secret = torch.randn(num_teachers)

    def forward(self, query, available=None):
        return (super().forward(query).log() + self.secret).softmax(-1)


ONLY: dict = {}


def always_the_same(hidden_dim, num_teachers):
    key = (hidden_dim, num_teachers)
    return ONLY.setdefault(key, LearnableRouter(hidden_dim, num_teachers))


class Fitted(LearnableRouter):
    """Has a centre, which it finds on the sample."""

    needs_sample = True

    def __init__(self, hidden_dim, num_teachers):
        super().__init__(hidden_dim, num_teachers)
        self.register_buffer("centre", torch.zeros(hidden_dim))

    def fit(self, sample):
        self.centre.copy_(sample.hidden.mean(0))

    def forward(self, query, available=None):
        return super().forward(query - self.centre.to(query))


class FitsBits(Fitted):
    """Takes for granted that every teacher has a loss of its own."""

    def __init__(self, hidden_dim, num_teachers):
        super().__init__(hidden_dim, num_teachers)
        self.register_buffer("bits", torch.zeros(num_teachers))

    def fit(self, sample):
        self.bits.copy_(sample.bits.mean(0))

    def forward(self, query, available=None):
        return (super().forward(query).log() - self.bits).softmax(-1)


class FitsInSecret(Fitted):
    """Keeps what it finds where no checkpoint looks."""

    def fit(self, sample):
        self.secret = sample.hidden.mean()

    def forward(self, query, available=None):
        weights = super().forward(query).log()
        weights[..., 0] += self.secret
        return weights.softmax(-1)


class NeverFitted(LearnableRouter):
    needs_sample = True


class WritesToTheSample(Fitted):
    def fit(self, sample):
        sample.hidden.sub_(sample.hidden.mean(0))


class Foretells(LearnableRouter):
    """A good router that decides before teachers read."""

    learns = False
    before_reading = True

    def __init__(self, hidden_dim, num_teachers):
        super().__init__(hidden_dim, num_teachers)
        self.requires_grad_(False)

    def beforehand(self, texts):
        weights = torch.ones(len(texts.domains), len(texts.teachers))
        for row, domain in enumerate(texts.domains):
            weights[row, 0] += len(domain)
        return weights / weights.sum(1, keepdim=True)


def foretelling(function):
    """One whose answer is spoilt."""

    def beforehand(self, texts):
        return function(self, Foretells.beforehand(self, texts))

    return type(function.__name__, (Foretells,), {"beforehand": beforehand})


@foretelling
def of_all_at_once(self, weights):
    return weights.mean(0, keepdim=True).expand_as(weights)


@foretelling
def by_turns(self, weights):
    self.calls = getattr(self, "calls", 0) + 1
    return weights.roll(self.calls, 1)


BROKEN = {
    "before_reading_in_words": type(
        "InWords", (LearnableRouter,), {"before_reading": True}
    ),
    "before_reading_by_chance_of_company": of_all_at_once,
    "before_reading_by_turns": by_turns,
    "before_reading_unnormalised": foretelling(lambda self, weights: 2 * weights),
    "before_reading_by_a_difficulty_that_is_none": type(
        "ByColour", (Foretells,), {"difficulty": "colour"}
    ),
    "fits_bits": FitsBits,
    "fits_in_secret": FitsInSecret,
    "never_fitted": NeverFitted,
    "writes_to_the_sample": WritesToTheSample,
    "integers": type("Integers", (OneHot,), {"num_teachers": 3}),
    "negative": negative,
    "unnormalised": unnormalised,
    "nan": not_a_number,
    "one_more_teacher": one_more_teacher,
    "transposed": double_of_wrong_axes,
    "detached": detached,
    "detached_and_asking": detached_and_asking,
    "without_pull": without_pull,
    "depends_on_the_batch": by_the_batch,
    "writes_to_the_query": writes_to_the_query,
    "writes_in_secret": writes_in_secret,
    "a_list": a_list,
    "raises": raises,
    "seeds": seeds,
    "other_weights_each_call": other_weights_each_call,
    "nan_after_60_calls": nan_after_60_calls,
    "no_softmax": Whole,
    "batch_norm": BatchNorm,
    "running_mean": RunningMean,
    "dead_norm": DeadNorm,
    "takes_threads": takes_threads,
    "no_module": NoModule,
    "float32_only": Halves,
    "forgets_a_part": Forgets,
    "always_the_same": always_the_same,
}
"""What a contract has to find."""


def at_real_width(function):
    """Good at a contract's width, spoilt at a model's."""

    def spoil(self, weights, query):
        return (
            weights if query.shape[-1] == 16 else function.spoil(self, weights, query)
        )

    return type(f"late_{function.__name__}", (Base,), {"spoil": spoil})


LATE = {
    f"{made.__name__}_late": at_real_width(made)
    for made in (negative, unnormalised, not_a_number, a_list, raises, detached)
} | {
    "depends_on_the_batch_late": at_real_width(by_the_batch),
    "writes_in_secret_late": at_real_width(writes_in_secret),
    "one_more_teacher_late": at_real_width(one_more_teacher),
    "writes_to_the_query_late": at_real_width(writes_to_the_query),
}
"""What only shows in a run."""
