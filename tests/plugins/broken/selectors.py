"""Selectors that break a promise."""

import torch
from torch import nn

NEEDS = frozenset({"student_max_prob"})


def simple(answer, needs=NEEDS, note=None):
    """A factory of a selector that is a function."""

    class Simple:
        def __init__(self, teachers, domains):
            self.needs = needs

        def __call__(self, candidates):
            return answer(candidates)

    if note is not None:
        Simple.note = staticmethod(note)
    return Simple


def ones(candidates, by=1.0):
    return torch.full(candidates.known.shape[:2], by)


def most(candidates):
    return candidates.signals.student_max_prob


class TakesAnything:
    needs = NEEDS

    def __init__(self, teachers, domains, *, power: float = 1.0, **rest):
        pass

    __call__ = staticmethod(ones)


class Remembers:
    """The greatest so far, where no checkpoint looks, of this process alone."""

    needs = NEEDS

    def __init__(self, teachers, domains):
        self.line = 0.0

    def __call__(self, candidates):
        return ones(candidates, self.line)

    def note(self, candidates):
        self.line += float(torch.nan_to_num(most(candidates)).sum())


class AtOnce(nn.Module):
    """What it notes counts in the same step."""

    needs = NEEDS

    def __init__(self, teachers, domains):
        super().__init__()
        self.register_buffer("line", torch.zeros(()))

    def forward(self, candidates):
        return ones(candidates, float(self.line))

    def note(self, candidates):
        sums = [float(torch.nan_to_num(most(candidates)).double().sum())]
        self.line += candidates.over_processes(sums)[0]


class Learns(nn.Module):
    needs = NEEDS

    def __init__(self, teachers, domains):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, candidates):
        return ones(candidates) * self.weight.detach()


class Late:
    needs = NEEDS

    def __init__(self, teachers, domains):
        self.calls = 0

    def __call__(self, candidates):
        self.calls += 1
        return ones(candidates, -1.0 if self.calls > 15 else 1.0)


def in_place(candidates):
    candidates.known.fill_(True)
    return ones(candidates)


def unnamed():
    return ones


BROKEN = {
    "nan": simple(most),
    "negative": simple(lambda c: ones(c, -1.0)),
    "infinite": simple(lambda c: ones(c, float("inf"))),
    "by_text": simple(lambda c: ones(c)[:, 0]),
    "integers": simple(lambda c: ones(c).long()),
    "booleans": simple(lambda c: ones(c) > 0),
    "plain": simple(lambda c: 1.0),
    "none": simple(lambda c: None),
    "unasked": simple(lambda c: c.signals.entropy.nan_to_num()),
    "needs_more": simple(ones, needs=frozenset({"gradients"})),
    "by_batch": simple(lambda c: (most(c).nan_to_num() > most(c).nanmean()).float()),
    "takes_anything": TakesAnything,
    "takes_no_names": unnamed,
    "remembers": Remembers,
    "at_once": AtOnce,
    "learns": Learns,
    "by_chance": simple(lambda c: torch.rand(c.known.shape)),
    "in_place": simple(in_place),
    "raises": simple(lambda c: c.accuracy),
    "late": Late,
}
