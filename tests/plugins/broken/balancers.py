"""Balancers that break a promise."""

import torch
from torch import nn

from student.balance import Balanced


def simple(answer, **facts):
    """A factory of a balancer that is a function."""

    class Simple:
        def __init__(self, names):
            self.names = names

        def __call__(self, standing):
            return answer(standing)

    for name, value in facts.items():
        setattr(Simple, name, value)
    return Simple


def same(standing, by=1.0):
    return Balanced(weights=standing.weights * by)


class SaysMore:
    """Needs more than its factory says."""

    needs = frozenset()

    def __init__(self, names):
        self.needs = frozenset({"gradients"})

    __call__ = staticmethod(same)


class TakesAnything:
    def __init__(self, names, *, power: float = 1.0, **rest):
        pass

    __call__ = staticmethod(same)


class Remembers:
    """Keeps a mean where no checkpoint looks."""

    def __init__(self, names):
        self.mean = torch.zeros(len(names)).double()

    def __call__(self, standing):
        self.mean = 0.5 * self.mean + 0.5 * standing.losses
        return Balanced(weights=self.mean.clone())


class Unreached(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(len(names)))

    forward = staticmethod(same)


class Late:
    def __init__(self, names):
        self.calls = 0

    def __call__(self, standing):
        self.calls += 1
        return same(standing, -1.0 if self.calls > 30 else 1.0)


def in_place(standing):
    standing.weights.mul_(2)
    return same(standing)


def unnamed():
    return same


BROKEN = {
    "nan": simple(lambda s: same(s, float("nan"))),
    "negative": simple(lambda s: same(s, -1.0)),
    "one_weight": simple(lambda s: Balanced(weights=s.weights[:1])),
    "integers": simple(lambda s: Balanced(weights=s.weights.long())),
    "plain": simple(lambda s: s.weights),
    "none": simple(lambda s: None),
    "loss_of_each": simple(lambda s: Balanced(weights=s.weights, loss=s.losses)),
    "by_size": simple(lambda s: same(s, 1 / s.losses)),
    "by_length": simple(lambda s: same(s, 1 / s.norms), needs=frozenset({"gradients"})),
    "unasked": simple(lambda s: same(s, s.norms)),
    "needs_more": simple(same, needs=frozenset({"hessian"})),
    "says_more": SaysMore,
    "takes_anything": TakesAnything,
    "takes_no_names": unnamed,
    "remembers": Remembers,
    "unreached": Unreached,
    "by_chance": simple(lambda s: same(s, torch.rand(len(s.weights)).double())),
    "seeds": simple(lambda s: (torch.manual_seed(0), same(s))[1]),
    "in_place": simple(in_place),
    "raises": simple(lambda s: s.accuracy),
    "late": Late,
}
