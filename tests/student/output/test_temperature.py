import math

import pytest
import torch
from scipy.optimize import minimize_scalar

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


def of(name, **signals):
    """A rule between 1 and 4, of what a step shows."""
    options = {key: signals.pop(key) for key in ("beta", "count") if key in signals}
    moment = Moment(start=1.0, end=4.0, progress=0.0, **signals)
    return TEMPERATURES[name](moment, **options)


def test_a_teacher_of_more_parameters_is_made_flatter_by_the_root_of_their_ratio():
    assert of("capacity", parameters=lambda: (100, 100)) == 1
    assert of("capacity", parameters=lambda: (100, 625)) == 2.5
    assert of("capacity", parameters=lambda: (100, 9_000)) == 4
    assert of("capacity", parameters=lambda: (100, 25)) == 1  # never below both


def test_loud_logits_are_made_flatter_within_the_limits():
    both = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 9.0])
    by_teacher = of("spread", logit_spread=lambda: both)
    torch.testing.assert_close(by_teacher, torch.tensor([1.0, 4.0]))
    moment = Moment(start=1.0, end=4.0, progress=0.0, logit_spread=lambda: both)
    torch.testing.assert_close(TEMPERATURES["spread"](moment, of="student"), both[0])


def test_a_domain_in_which_the_student_lags_is_made_flatter():
    gap = torch.tensor([-0.5, 0.0, 0.25, 2.0])
    expected = torch.tensor([1.0, 1.0, 1.75, 4.0])
    torch.testing.assert_close(of("gap", loss_gap=lambda: gap), expected)


def test_the_balanced_temperature_is_the_best_of_a_grid():
    teacher, student = torch.tensor([[3.0, 0, -1], [0, 5, 1]]).double()

    def said(temperature):
        p, q = ((x / temperature).softmax(0) for x in (teacher, student))
        return float(-(p * p.log()).sum()), float((q * (q / p).log()).sum())

    # A strong divergence flattens all the way, none too: entropy alone grows as well.
    for beta in (0.0, 0.2, 2.0):
        best = minimize_scalar(
            lambda t, beta=beta: beta * said(t)[1] - said(t)[0],
            bounds=(1, 4),
            method="bounded",
        ).x
        chosen = of("balanced", at_temperature=said, beta=beta, count=400)
        assert chosen == pytest.approx(best, rel=0.01)

    def peaked(temperature):  # H less the divergence is largest at 2
        return 0.0, (math.log(temperature) - math.log(2)) ** 2

    assert of("balanced", at_temperature=peaked) == pytest.approx(2)
    assert (
        of("balanced", at_temperature=peaked, beta=0.0) == 1
    )  # of equal ones the first
