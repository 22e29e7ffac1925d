"""Bits that a linear map reads off features, by hand and beside scikit-learn."""

import math

import pytest
import torch

from experiments.bench.consensus.probe import (
    Split,
    classes_of,
    frequency_bits,
    probe_bits,
    token_bits,
    told_by_token,
)


def tensors(*rows):
    return tuple(torch.tensor(row) for row in rows)


def test_the_commonest_of_the_first_set_are_classes_and_the_rest_is_one():
    fit, held = tensors([7, 7, 7, 2, 2, 5], [2, 9, 7, 5])
    first, second = classes_of([fit, held], 3)
    assert first.tolist() == [0, 0, 0, 1, 1, 2]
    assert second.tolist() == [1, 2, 0, 2]


def test_bits_by_frequencies_and_by_the_token_itself_by_hand():
    classes = tensors([0, 0, 1], [0], [0, 1])
    expected = -(math.log2(2.5 / 4) + math.log2(1.5 / 4)) / 2
    assert frequency_bits(classes, 2) == pytest.approx(expected)
    # After token 3 always 0, after 4 always 1; half a count of the frequencies.
    tokens = tensors([3, 3, 4, 4], [3], [3, 4, 5])
    follow = tensors([0, 0, 1, 1], [0], [0, 1, 1])
    known = -math.log2((2 + 0.5 * 0.5) / 2.5)
    assert token_bits(tokens, follow, 2) == pytest.approx((known + known + 1) / 3)


def split_of(features, classes, count):
    third = len(classes) // 3
    return Split(
        features=features.split(third), classes=classes.split(third), count=count
    )


def test_bits_of_a_probe_are_those_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    g = torch.Generator().manual_seed(0)
    x = torch.randn(900, 4, generator=g)
    chances = (x @ torch.randn(4, 3, generator=g) * 1.5).softmax(1)
    y = chances.multinomial(1, generator=g)[:, 0]
    split = split_of(5 * x + 2, y, 3)
    fit, _, held = split.features
    mean, std = fit.mean(0), fit.std(0)
    model = LogisticRegression(C=1 / (0.01 * 300), tol=1e-8)
    model.fit(((fit - mean) / std).numpy(), split.classes[0].numpy())
    likely = model.predict_log_proba(((held - mean) / std).numpy())
    expected = -likely[range(300), split.classes[2].numpy()].mean() / math.log(2)
    assert probe_bits(split, [0.01]) == pytest.approx(expected, abs=1e-3)


def test_a_class_that_can_be_read_costs_little_and_noise_tells_nothing():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(4, (1500,), generator=g)
    plain = torch.eye(4)[y]
    noise = torch.randn(1500, 4, generator=g)
    assert probe_bits(split_of(plain, y, 4)) < 0.1
    assert probe_bits(split_of(noise, y, 4)) == pytest.approx(2, abs=0.05)
    still = torch.ones(1500, 2)
    assert probe_bits(split_of(still, y, 4)) == pytest.approx(2, abs=0.05)


def test_the_penalty_is_chosen_on_texts_apart():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(2, (300,), generator=g)
    split = split_of(torch.randn(300, 60, generator=g), y, 2)
    tight, loose = (probe_bits(split, [penalty]) for penalty in (1.0, 1e-4))
    assert tight < loose
    assert probe_bits(split, [1.0, 1e-4]) == tight


def test_what_a_token_tells_of_features_by_hand():
    tokens = torch.tensor([0, 0, 1, 1])
    features = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert told_by_token(features, tokens, features, tokens) == pytest.approx(0.5)
    held, others = torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([0, 2])
    # The first channel of the first token alone: the second was never met.
    assert told_by_token(features, tokens, held, others) == pytest.approx(0.5)
    assert told_by_token(features, tokens, 0 * held, others) == 0
