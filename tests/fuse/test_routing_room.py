import math

import pytest
import torch

from fuse.routing_room import mixture, routing_room

LN2 = math.log(2)


def test_bits_by_hand():
    # Two texts of one and two stretches, probabilities 1/2 to 1/8, eight characters.
    heard = [
        torch.tensor([[0.5, 0.125]]).log(),
        torch.tensor([[0.25, 0.5], [0.125, 0.5]]).log(),
    ]
    room = routing_room(heard, 8, eta=1, decay=1)
    assert room.teachers == pytest.approx(((1 + 2 + 3) / 8, (3 + 1 + 1) / 8))
    equal = -math.log2(5 / 16) - math.log2(3 / 8) - math.log2(5 / 16)
    assert room.equal == pytest.approx(equal / 8)
    # After 1/4 and 1/2 the second teacher has two thirds of the weight.
    last = 0.125 / 3 + 0.5 * 2 / 3
    causal = -math.log2(5 / 16) - math.log2(3 / 8) - math.log2(last)
    assert room.prequential == pytest.approx(causal / 8)
    assert room.per_text == pytest.approx((1 + 2) / 8)
    assert room.per_stretch == pytest.approx((1 + 1 + 1) / 8)
    assert room.gain == pytest.approx(1 - 3 / equal)
    assert room.ceiling == pytest.approx(1 - 3 / equal)


def brute_force(heard, characters, eta, decay):
    """Every number, stretch by stretch, with plain probabilities."""
    equal = causal = text_best = stretch_best = 0.0
    for text in heard:
        probabilities = text.exp().tolist()
        for k, row in enumerate(probabilities):
            scores = [
                sum(decay ** (k - j) * float(text[j, m]) for j in range(k))
                for m in range(len(row))
            ]
            weights = [math.exp(eta * score) for score in scores]
            mixed = sum(w * p for w, p in zip(weights, row, strict=True))
            equal -= math.log2(sum(row) / len(row))
            causal -= math.log2(mixed / sum(weights))
            stretch_best -= math.log2(max(row))
        if probabilities:
            text_best -= float(text.sum(0).max()) / LN2
    return [x / characters for x in (equal, causal, text_best, stretch_best)]


def test_agrees_with_plain_probabilities():
    chance = torch.Generator().manual_seed(0)
    heard = [-4 * torch.rand(k, 3, generator=chance).double() for k in (5, 0, 1, 9)]
    room = routing_room(heard, 40, eta=0.7, decay=0.6)
    got = [room.equal, room.prequential, room.per_text, room.per_stretch]
    assert got == pytest.approx(brute_force(heard, 40, 0.7, 0.6), rel=1e-12)


def test_what_two_equal_teachers_say_leaves_nothing_to_gain():
    one = -torch.rand(4, 1, generator=torch.Generator().manual_seed(2))
    room = routing_room([one.expand(-1, 2)], 10)
    assert room.gain == pytest.approx(0, abs=1e-12)
    assert room.ceiling == pytest.approx(0, abs=1e-12)


def test_a_mixture_of_impossible_things_does_not_underflow():
    heard = torch.tensor([-1000.0, -1001.0], dtype=torch.float64)
    even = torch.tensor([0.5, 0.5], dtype=torch.float64)
    expected = -1000 + math.log(0.5) + math.log1p(math.exp(-1))
    assert float(mixture(heard, even)) == pytest.approx(expected)


def test_no_character_is_refused():
    with pytest.raises(ValueError, match="0 characters"):
        routing_room([torch.zeros(0, 2)], 0)
