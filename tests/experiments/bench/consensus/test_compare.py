"""What is measured of a layer, and what speaks against a target of it."""

from itertools import pairwise

import pytest
import torch

from experiments.bench.consensus.compare import (
    SHARED,
    Layer,
    dims_of,
    measure,
    sums_of,
)
from experiments.bench.consensus.features import Features, School
from experiments.bench.consensus.verdict import objections

NAMES = ("one", "other")


def layer(agreeing=12, shared=2.0, private=(2.5, 2.2), side="keys", number=0):
    return Layer(
        side=side,
        layer=number,
        agreement=(0.9,) * agreeing + (0.5, 0.1),
        dims=8,
        bits={SHARED: shared}
        | {f"private {n}": b for n, b in zip(NAMES, private, strict=True)},
        token={},
    )


def test_ten_directions_of_every_layer_and_a_shared_part_that_tells_more_are_kept():
    assert objections([layer(), layer(10, side="values")], NAMES) == []


def test_a_layer_of_few_shared_directions_speaks_against_it():
    (sentence,) = objections([layer(), layer(9, side="values", number=3)], NAMES)
    assert sentence.startswith("values of layer 3: 9 directions above 0.5")


def test_a_private_part_that_tells_more_on_the_mean_speaks_against_it():
    worse, better = layer(private=(2.5, 1.7)), layer(private=(2.5, 2.2), number=1)
    (sentence,) = objections([worse, better], NAMES)
    assert sentence.startswith("keys: the private part of other leaves 1.950 bits")
    assert objections([better, better], NAMES) == []


def test_every_teacher_keeps_as_many_private_directions_as_are_shared():
    assert dims_of(40, (64, 192), None) == 32
    assert dims_of(20, (64, 192), None) == 20
    assert dims_of(20, (64, 192), 16) == 16
    assert dims_of(3, (64, 192), None) == 10  # what it takes, that all is shown
    assert dims_of(3, (8, 192), None) == 4


def test_sums_in_chunks_are_those_of_the_whole():
    x = torch.randn(2, 9000, 3)
    stats = sums_of(x)
    assert stats.n == 9000
    torch.testing.assert_close(stats.cov_x[1], torch.cov(x[1].double().T, correction=0))


def made(n, seed):
    """Two teachers that share three signals, of which the first is the next token."""
    g = torch.Generator().manual_seed(seed)
    following = torch.randint(3, (n,), generator=g)
    signal = torch.randn(n, 3, generator=g)
    signal[:, 0] = following - 1 + 0.1 * signal[:, 0]
    parts = []
    for width in (8, 12):
        x = torch.randn(n, width, generator=g)
        x[:, :3] = signal + 0.2 * x[:, :3]
        parts.append(x @ torch.randn(width, width, generator=torch.manual_seed(width)))
    x = torch.cat(parts, 1)[None]
    tokens = torch.randint(5, (n,), generator=g)
    return Features(sides={"keys": x}, tokens=tokens, following=following)


@pytest.fixture(scope="module")
def measured():
    sets = [made(n, seed) for seed, n in enumerate((1500, 500, 800))]
    return next(iter(measure(sets, {"keys": (8, 12)}, NAMES, classes=4)))


def test_what_is_shared_is_counted_and_tells_what_comes(measured):
    assert (measured.agreeing, measured.dims) == (3, 4)
    assert measured.bits[SHARED] < 0.5 < measured.least("private")
    assert measured.least("whole") < 0.5
    assert max(measured.token.values()) < 0.05


def test_every_teacher_is_probed_in_every_way(measured):
    kinds = ("guesses", "private", "components", "whole")
    names = {f"{kind} {name}" for kind in kinds for name in NAMES}
    assert set(measured.bits) == {SHARED} | names
    assert set(measured.token) == {SHARED, "private one", "private other"}


@pytest.mark.slow
def test_features_are_of_tokens_that_all_cover_and_another_follows(tiny_zoo):
    names = ("student", "gpt2-prose", "qwen-code")
    student, *teachers = (str(tiny_zoo[name]) for name in names)
    school = School(student, teachers, tokens=48)
    assert school.names == names[1:]
    texts = school.texts("eval", 3)
    assert {text.domain for text in texts} == {"prose", "code"} and len(texts) == 6
    features = school.read(texts)
    for side in ("keys", "values"):
        size = (len(features.tokens), sum(school.widths[side]))
        assert tuple(features.sides[side].shape[1:]) == size
        assert features.sides[side].isfinite().all()
    ids = school.encode([text.text for text in texts]).ids
    pairs = {pair for row in ids.tolist() for pair in pairwise(row)}
    read = zip(features.tokens.tolist(), features.following.tolist(), strict=True)
    assert set(read) <= pairs
    assert 0.5 * ids.numel() < len(features.tokens) < ids.numel()
