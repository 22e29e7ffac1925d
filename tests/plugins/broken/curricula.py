"""Curricula that break a promise."""

import random
import time

import torch


def simple(answer, **facts):
    """A factory of a curriculum that is a function."""

    class Simple:
        needs = frozenset({"length"})

        def __call__(self, scores, draw):
            return answer(scores, draw)

    for name, value in facts.items():
        setattr(Simple, name, value)
    return Simple


def turn(scores, draw):
    """Each in its turn."""
    return [(draw.first + place) % len(scores) for place in range(draw.size)]


def in_place(scores, draw):
    scores.columns["length"].add_(1)
    return turn(scores, draw)


def slow(scores, draw):
    end = time.process_time() + (0.25 if len(scores) > 1000 else 0)
    while time.process_time() < end:
        pass
    return turn(scores, draw)


class Counts:
    """Goes on where it was, wherever it is asked."""

    needs = frozenset()

    def __init__(self):
        self.first = 0

    def __call__(self, scores, draw):
        self.first += draw.size
        return [(self.first + n) % len(scores) for n in range(draw.size)]


def hardest(scores, draw):
    """Numbers that are not known sort anywhere, and long ones alone are read."""
    bits = scores.columns["student_bits"]
    return bits.argsort(descending=True)[: draw.size].tolist()


def by_chance(scores, draw):
    return random.choices(range(len(scores)), k=draw.size)


BROKEN = {
    "no_needs": simple(turn, needs=None),
    "needs_more": simple(turn, needs=frozenset({"colour"})),
    "too_few": simple(lambda s, d: turn(s, d)[1:]),
    "outside": simple(lambda s, d: [len(s)] * d.size),
    "floats": simple(lambda s, d: [float(n) for n in turn(s, d)]),
    "tensor": simple(lambda s, d: torch.tensor(turn(s, d))),
    "short_of_texts": simple(
        lambda s, d: turn(s, d) if d.size <= len(s) else list(range(len(s)))
    ),
    "unknown": simple(lambda s, d: [int(s.columns["student_bits"][0])] * d.size),
    "by_chance": simple(by_chance),
    "counts": Counts,
    "starves": simple(hardest),
    "in_place": simple(in_place),
    "slow": simple(slow),
}
