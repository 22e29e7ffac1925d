import math

import pytest
import torch

from student.output.temperature import (
    TEMPERATURES,
    Moment,
    gradient_signal_to_noise,
)


def at(
    name, progress=0.0, start=1.0, end=4.0, vocabulary=32_000, entropy=(), snr=(1, 1)
):
    moment = Moment(
        start=start,
        end=end,
        progress=progress,
        vocabulary=vocabulary,
        teacher_entropy=lambda: torch.tensor(entropy),
        signal_to_noise=lambda: snr,
    )
    return TEMPERATURES[name](moment)


@pytest.mark.parametrize("name", ["linear", "exponential", "cosine"])
def test_a_schedule_leads_from_start_to_end_without_turning_back(name):
    found = [at(name, i / 10) for i in range(11)]
    assert found[0] == pytest.approx(1) and found[-1] == pytest.approx(4)
    assert found == sorted(found)
    middle = {"linear": 2.5, "exponential": 2.0, "cosine": 2.5}[name]
    assert found[5] == pytest.approx(middle)
    assert at(name, 0.5, start=4.0, end=1.0) == pytest.approx(middle)


def test_an_undecided_teacher_is_made_flatter():
    entropy = (0.0, math.log(100) / 2, math.log(100))
    found = at("entropy", vocabulary=100, entropy=entropy)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.5, 4.0]))


def test_a_larger_vocabulary_is_made_flatter_within_the_limits():
    assert at("vocabulary", vocabulary=32_000) == pytest.approx(1)
    larger = at("vocabulary", vocabulary=151_936)
    assert larger == pytest.approx(math.log(151_936) / math.log(32_000))
    assert at("vocabulary", vocabulary=100) == 1  # never below both


def test_noisier_distances_are_made_flatter_than_labels():
    assert at("signal_to_noise", snr=(0.1, 0.4)) == pytest.approx(2)
    assert at("signal_to_noise", snr=(1e-6, 1.0)) == 4
    assert at("signal_to_noise", snr=(1.0, 0.1)) == 1
    assert at("signal_to_noise", snr=(0.0, 1.0)) == 1  # nothing to tell it by


def test_signal_to_noise_is_the_means_length_over_the_variance():
    gradient = torch.tensor([[1.0, 2.0], [3.0, 2.0], [9.0, 9.0]])
    weight = torch.tensor([1.0, 1.0, 0.0])
    assert gradient_signal_to_noise(gradient, weight) == (4 + 4) / 2
    assert gradient_signal_to_noise(gradient[:1], weight[:1]) == 0
    assert gradient_signal_to_noise(torch.ones(3, 2), torch.ones(3)) == math.inf
