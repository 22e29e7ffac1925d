"""The built-in selectors by numbers worked out by hand and by NumPy."""

import math

import numpy as np
import pytest
import torch

from align.errors import InputError
from align.schedules import Timetable
from fuse.signals import Signals
from plugins.contracts.check import assert_contract
from plugins.options import with_options
from student.select import SELECTORS, Candidates

NAN = math.nan
TEACHERS, DOMAINS = ("a", "b"), ("code", "prose")


def places(domains=("code", "prose"), step=0, known=True, **signals):
    """One pass of two texts with three tokens, of two teachers."""
    tensors = {name: torch.tensor(value) for name, value in signals.items()}
    told = Signals(teachers=TEACHERS, domains=domains, **tensors)
    where = torch.full((2, 3, 2), known)
    return Candidates(
        signals=told, known=where, step=step, timetable=Timetable(10), place="s"
    )


def made(kind, **options):
    return SELECTORS[kind](TEACHERS, DOMAINS, **options)


ENTROPY = [
    [[0.5, 4.0], [2.0, 1.0], [3.0, NAN]],
    [[1.0, 2.0], [2.0, 2.5], [0.0, 6.0]],
]


def test_uncertain_keeps_what_lies_on_a_threshold_or_above_and_what_nobody_knows():
    given = places(entropy=ENTROPY)
    above = [[[0, 1], [1, 0], [1, 1]], [[0, 1], [1, 1], [0, 1]]]
    below = [[[1, 0], [1, 1], [0, 1]], [[1, 1], [1, 0], [1, 0]]]
    assert made("uncertain", threshold=2.0)(given).tolist() == above
    assert made("uncertain", threshold=2.0, keep="below")(given).tolist() == below
    every = made("uncertain", threshold=0.0)
    assert every(given).min() == 1
    student = made("uncertain", of="student", threshold={"from": 0, "to": 4})
    entropy = [[1.0, 2.5, 1.9], [2.0, 0.1, NAN]]  # at step 5 of 10 the line is 2
    halfway = places(student_entropy=entropy, step=5)
    assert student(halfway).tolist() == [[0, 1, 0], [1, 0, 1]]
    assert student.needs == {"student_entropy"}


def test_a_percentile_is_that_of_the_steps_before_and_of_whom_it_is_asked():
    draw = torch.Generator().manual_seed(4)
    entropy = 1 + torch.rand(2, 3, 2, generator=draw) * torch.tensor([1.0, 4.0])
    given = places(entropy=entropy.tolist())
    axes = {"none": (0, 1, 2), "teachers": (0, 1), "domains": (1, 2), "both": (1,)}
    for apart, axis in axes.items():
        selector = made("uncertain", percentile=50, apart=apart)
        assert selector(given).min() == 1  # nothing is known yet
        selector.note(given)
        later = places(entropy=entropy.tolist(), step=1)
        line = np.quantile(
            entropy.numpy(), 0.5, axis=axis, keepdims=True, method="inverted_cdf"
        )
        clear = abs(entropy.numpy() / line - 1) > 0.01  # of a bucket's own width
        expected = entropy.numpy() >= line
        kept = selector(later).numpy() > 0
        assert (kept == expected)[clear].all(), apart
        assert 0 < kept.mean() < 1
    every = made("uncertain", percentile=0)
    every.note(given)
    assert every(places(entropy=entropy.tolist(), step=1)).min() == 1


def test_deviations_are_counted_from_the_mean():
    values = np.array([1.0, 2.0, 3.0, 10.0, 4.0, 4.0])
    entropy = np.stack([values, values], -1).reshape(2, 3, 2).tolist()
    selector = made("uncertain", deviations=1.0)
    selector.note(places(entropy=entropy))
    kept = selector(places(entropy=entropy, step=1))[..., 0].flatten().numpy()
    assert kept.tolist() == (values >= values.mean() + values.std()).tolist()
    assert kept.tolist() == [0, 0, 0, 1, 0, 0]


def test_unsure_students_places_weigh_more_by_their_doubt():
    most = [[0.2, 0.5, 0.9], [0.4, NAN, 0.1]]
    weight = made("unsure_student", alpha=2.0, gamma=0.5)(places(student_max_prob=most))
    expected = torch.tensor([[2.6, 1.0, 1.0], [2.2, 1.0, 2.8]])
    torch.testing.assert_close(weight, expected)
    entropy = [[1.0, 9.0, 9.0], [3.0, 9.0, 2.0]]
    given = places(student_max_prob=most, student_entropy=entropy)
    weight = made("unsure_student", gamma=0.5, difficulty="entropy")(given)
    expected = torch.tensor([[2.0, 1.0, 1.0], [4.0, 1.0, 3.0]])
    torch.testing.assert_close(weight, expected)


def test_excess_loss_keeps_the_share_that_the_student_loses_most_on():
    student = [[-5.0, -1.0, -2.0], [-0.5, -3.0, -4.0]]
    teacher = [
        [[-1.0, -6.0], [-1.0, -1.0], [-1.0, NAN]],
        [[-1.0, -0.5], [-0.5, -2.0], [-3.8, -1.0]],
    ]
    # excess of a: 4, 0, 1, -0.5, 2.5, 0.2; of b: -1, 0, ?, 0, 1, 3
    given = places(student_log_prob=student, log_prob=teacher)
    fixed = made("excess_loss", threshold=0.5)(given)
    assert fixed[..., 0].tolist() == [[1, 0, 1], [0, 1, 0]]
    assert fixed[..., 1].tolist() == [[0, 0, 1], [0, 1, 1]]
    half = made("excess_loss", share=0.5, apart="teachers")
    half.note(given)
    later = places(student_log_prob=student, log_prob=teacher, step=1)
    # a's third least of six is 0.2; of b's five it is 0
    assert half(later)[..., 0].tolist() == [[1, 0, 1], [0, 1, 1]]
    assert half(later)[..., 1].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert made("excess_loss", share=1.0)(later).min() == 1
    grows = made("excess_loss", share={"from": 0, "to": 1})
    nothing = grows(places(student_log_prob=student, log_prob=teacher))
    assert nothing.nansum() == 1  # what nobody knows


def test_a_confident_teacher_counts_more_and_as_written_less():
    p = [[[1.0, 0.5], [0.25, NAN], [0.1, 0.2]], [[0.3, 0.4], [0.6, 0.7], [0.8, 0.9]]]
    log_p = np.log(p).tolist()
    sure = made("confident_teacher", strength=2.0)(places(log_prob=log_p))
    expected = np.where(np.isnan(p), 1.0, np.exp(-2 * (1 - np.array(p))))
    np.testing.assert_allclose(sure.numpy(), expected, rtol=1e-6)
    by_greatest = made("confident_teacher", strength=2.0, by="greatest")
    np.testing.assert_allclose(by_greatest(places(max_prob=p)).numpy(), expected)
    written = made("confident_teacher", prefer="unsure")(places(log_prob=log_p))
    expected = np.where(np.isnan(p), 1.0, np.exp(-np.array(p)))
    np.testing.assert_allclose(written.numpy(), expected, rtol=1e-6)


WAYS = [
    *(
        ("uncertain", options)
        for options in (
            {},
            {"of": "student", "percentile": 90, "keep": "below"},
            {"deviations": 0.5, "apart": "both"},
            {"threshold": 2.0},
        )
    ),
    *((kind, {}) for kind in SELECTORS if kind != "uncertain"),
    ("excess_loss", {"share": 0.3, "apart": "teachers"}),
    ("unsure_student", {"difficulty": "entropy"}),
    ("confident_teacher", {"by": "greatest", "prefer": "unsure"}),
]


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_built_ins_keep_the_contract(kind, options):
    assert_contract("selector", with_options(SELECTORS[kind], options))


def test_one_line_is_drawn_in_one_way():
    with pytest.raises(InputError, match="threshold and percentile exclude each other"):
        made("uncertain", threshold=1.0, percentile=50)
    with pytest.raises(InputError, match="percentile is 101"):
        made("uncertain", percentile=101, keep="below")
    with pytest.raises(InputError, match="share and threshold exclude each other"):
        made("excess_loss", threshold=1.0, share=0.5)


def test_what_nobody_would_read_is_refused():
    with pytest.raises(InputError, match="apart is 'teachers', and what is compared"):
        made("uncertain", of="student", apart="teachers")
    with pytest.raises(InputError, match="apart is 'domains', and threshold is one"):
        made("uncertain", threshold=1.0, apart="domains")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("excess_loss", {"share": 0}),
        ("excess_loss", {"share": {"from": 0, "to": 0.0}}),
        ("uncertain", {"percentile": 100}),
        ("uncertain", {"percentile": 0, "keep": "below"}),
    ],
)
def test_what_would_keep_nothing_at_any_step_is_refused(kind, options):
    with pytest.raises(InputError, match="so that nothing is kept"):
        made(kind, **options)
    made("excess_loss", share={"from": 0, "to": 0.5})  # it grows


@pytest.mark.parametrize("value", [3.7, 2.0, -3.7, 0.0])
@pytest.mark.parametrize("keep", ["above", "below"])
@pytest.mark.parametrize("way", [{"percentile": 50}, {"deviations": 0.0}])
def test_numbers_that_are_all_alike_lie_on_the_line(value, keep, way):
    """On whichever side of them the number lies that stands for their bucket."""
    selector = made("uncertain", of="student", keep=keep, **way)
    same = {"student_entropy": [[value] * 3] * 2}
    selector.note(places(**same))
    assert selector(places(**same, step=1)).min() == 1


@pytest.mark.parametrize("kind", ["uncertain", "excess_loss"])
def test_whoever_tells_domains_apart_is_told_them(kind):
    """Nobody else is: all would be one."""
    assert "domain" in made(kind, apart="domains").needs
    assert "domain" in made(kind, apart="both").needs
    assert "domain" not in made(kind, apart="teachers").needs
