"""The formulas of the built-in curricula, by hand and by what they read."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from align.errors import InputError
from student.curriculum import CURRICULA, Draw, Scores
from student.curriculum.built_in import (
    Adaptive,
    Bands,
    Competence,
    Domains,
    Sigmoid,
)

N, SIZE, STEPS = 60, 6, 60


def scores(before=None, **columns):
    """Sixty texts, two thirds of domain a; the later the harder."""
    hard = torch.arange(N, dtype=torch.float64)
    known = {"length": hard, "student_bits": hard / 10, **columns}
    known["teacher_bits"] = known["teacher_entropy"] = hard[:, None] / 20
    return Scores(
        domains=["a"] * 40 + ["b"] * 20,
        teachers=["one"],
        columns=known,
        before=before,
    )


def read(curriculum, known=None, steps=range(STEPS)):
    known, texts = known or scores(), STEPS * SIZE
    draws = [Draw(seed=5, first=s * SIZE, size=SIZE, texts=texts) for s in steps]
    return [curriculum(known, draw) for draw in draws]


def test_bands_come_one_after_another():
    steps = read(Bands(difficulty="length"))
    for third in range(3):
        part = {text for step in steps[third * 20 : third * 20 + 20] for text in step}
        assert part == set(range(third * 20, third * 20 + 20))
    hard = read(Bands(difficulty="length", hard_first=True))
    assert {text for step in hard[:20] for text in step} == set(range(40, 60))
    together = read(Bands(difficulty="length", together=True))
    assert {text for step in together[40:] for text in step} == set(range(60))
    some = read(Bands(difficulty="length", least=0.5))
    first = Counter(text // 20 for step in some[:20] for text in step)
    assert first == {0: 80, 1: 20, 2: 20}  # half, and an even share of the rest


def test_competence_is_platanios():
    curriculum = Competence(difficulty="length", start=0.1, until=0.7)
    expected = {0: 0.1, 0.35: math.sqrt(0.5 * 0.99 + 0.01), 0.7: 1, 0.9: 1}
    for progress, c in expected.items():
        assert curriculum.competence(progress) == pytest.approx(c)
    linear = Competence(start=0.2, until=1.0, power=1.0)
    assert linear.competence(0.5) == pytest.approx(0.6)
    # of 32 groups at c = 0.1: three are open, of the fourth a fifth
    middle = (np.arange(32) + 0.5) / 32
    rates = curriculum.rates(middle, 0.0)
    assert rates[:4].tolist() == pytest.approx([1, 1, 1, 0.2])
    assert not rates[4:].any()
    steps = read(Competence(difficulty="length", groups=60))
    for step, texts in enumerate(steps):
        c = math.sqrt(min(1, step / STEPS / 0.7) * 0.99 + 0.01)
        assert max(texts) <= min(c, 1) * N + 1
    assert {text for step in steps for text in step} == set(range(N))


def test_sigmoid_is_half_where_it_has_come_to():
    curriculum = Sigmoid(reached_from=0.2, reached_to=1.2, width_from=0.1, width_to=0.2)
    rates = curriculum.rates(np.array([0.2, 0.3, 0.7]), 0.0)
    assert rates.tolist() == pytest.approx([0.5, 1 / (1 + math.e), 1 / (1 + math.e**5)])
    half = curriculum.rates(np.array([0.7, 1.0]), 0.5)
    assert half.tolist() == pytest.approx([0.5, 1 / (1 + math.e**2)])


def test_adaptive_reads_what_is_to_be_had():
    curriculum = Adaptive(groups=3, strength=1.0, least=0.0, difficulty="length")
    known = scores()
    groups = curriculum.groups_of(known)
    sizes = np.array([20.0, 20.0, 20.0])
    z = math.sqrt(1.5)  # of -1, 0, 1
    expected = np.exp([-z, 0, z]) / np.exp([-z, 0, z]).sum()
    assert curriculum.shares(known, groups, sizes, 0.3) == pytest.approx(expected)
    even = Adaptive(groups=3, strength=0.0, difficulty="length")
    assert even.shares(known, groups, sizes, 0.3) == pytest.approx([1 / 3] * 3)


def test_domains_are_mixed_by_temperature_and_by_what_they_give():
    known = scores()

    def shares(curriculum, known=known):
        groups = curriculum.groups_of(known)
        sizes = np.array([len(group) for group in groups], dtype=np.float64)
        out = curriculum.shares(known, groups, sizes, 0.0)
        return (out / out.sum()).tolist()

    assert shares(Domains()) == pytest.approx([2 / 3, 1 / 3])
    root = math.sqrt(2)
    assert shares(Domains(temperature=2)) == pytest.approx(
        [root / (1 + root), 1 / (1 + root)]
    )
    bits = torch.tensor([1.0] * 40 + [1.9] * 20).double()
    later = scores(
        before=scores(student_bits=torch.full((N,), 2.0).double()), student_bits=bits
    )
    progress = Domains(by="progress", temperature=1e9, least=0.1)
    # a saved half of its bits, b a twentieth; by size both are alike at this T
    assert shares(progress, later) == pytest.approx(
        [0.9 * 10 / 11 + 0.05, 0.9 / 11 + 0.05], rel=1e-6
    )
    assert shares(progress) == pytest.approx([0.5, 0.5], rel=1e-6)  # nothing before
    # needs 0.05 n bits more than its teacher of the n-th text: 0.975 and 2.475
    gap = Domains(by="gap", least=0.0)
    total = 2 * 0.975 + 2.475
    assert shares(gap) == pytest.approx([2 * 0.975 / total, 2.475 / total])


@pytest.mark.parametrize("name", CURRICULA)
def test_all_read_everything_again_and_again_and_anew(name):
    curriculum = CURRICULA[name]()
    steps = read(curriculum)
    counts = Counter(text for step in steps for text in step)
    assert set(counts) == set(range(N))
    assert all(len(step) == SIZE for step in steps)
    (again,) = read(CURRICULA[name](), steps=[41])
    assert again == steps[41]


def test_within_domains_no_domain_waits():
    steps = read(Bands(difficulty="length", within_domains=True))
    first = Counter("ab"[text >= 40] for step in steps[:20] for text in step)
    assert first["b"] == pytest.approx(first["a"] / 2, abs=4)
    with pytest.raises(InputError, match="no difficulty is called 'hardness'"):
        Bands(difficulty="hardness")


def few(count):
    """So many texts, the later the harder."""
    return Scores(
        domains=["a"] * count, columns={"length": torch.arange(count).double()}
    )


def test_bands_that_hold_no_text_have_the_nearest_one_read():
    steps = read(Bands(difficulty="length", bands=10), few(5))
    for turn in range(10):
        part = {text for step in steps[turn * 6 : turn * 6 + 6] for text in step}
        assert part <= {max(0, (turn - 1) // 2), turn // 2}
    assert {text for step in steps for text in step} == set(range(5))


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_the_easiest_texts_are_open_where_no_group_is_yet(start):
    for count in (3, 60):
        (first,) = read(
            Competence(difficulty="length", start=start), few(count), steps=[0]
        )
        assert set(first) <= set(range(max(1, round(count * max(start, 1 / 32)) + 1)))
