import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, kl_divergence

from student.output import (
    Chunks,
    ChunkTokens,
    chunk_likelihood,
)

FORMS = ("binary", "squared", "absolute")


def one_token_chunks(count):
    """N chunks, one token each on both sides, behind a first token."""
    chunk = torch.arange(-1, count)[None]
    place = torch.arange(1, count + 1)
    side = ChunkTokens(chunk, place, place)
    return Chunks(side, side)


def behind_first(values):
    """(N,) values of the chunks as (1, N + 1) of the tokens."""
    return torch.cat([values.new_full((1,), torch.nan), values])[None]


def two_to_one():
    """Chunks of (2, 1) and (1, 2) tokens in one text with a last, unread token."""
    student = ChunkTokens(
        torch.tensor([[-1, 0, 0, 1, -1]]), torch.tensor([1, 3]), torch.tensor([2, 3])
    )
    teacher = ChunkTokens(
        torch.tensor([[-1, 0, 1, 1, -1]]), torch.tensor([1, 2]), torch.tensor([1, 3])
    )
    return Chunks(student, teacher)


STUDENT = torch.tensor([[9.0, -1, -2, -0.5, 9]], dtype=torch.float64)
TEACHER = torch.tensor([[9.0, -2, -0.25, -0.5, 9]], dtype=torch.float64)


def test_forms_by_hand():
    chunks = two_to_one()  # sums: student -3, -0.5; teacher -2, -0.75
    assert chunk_likelihood(STUDENT, TEACHER, chunks, form="absolute").item() == 0.625
    squared = chunk_likelihood(
        STUDENT, TEACHER, chunks, form="squared", reduction="none"
    )
    assert squared.tolist() == [0.5, 0.03125]
    total = chunk_likelihood(STUDENT, TEACHER, chunks, form="squared", reduction="sum")
    assert total.item() == 0.53125


@pytest.mark.parametrize("tau", [0.5, 1, 10, 100])
def test_the_binary_form_is_the_kl_of_two_bernoulli_variables(tau):
    s, t = torch.tensor([-3, -0.5]).double(), torch.tensor([-2, -0.75]).double()
    p, q = ((x / tau).exp() for x in (t, s))
    expected = tau * kl_divergence(Bernoulli(p), Bernoulli(q))
    got = chunk_likelihood(
        STUDENT, TEACHER, two_to_one(), temperature=tau, reduction="none"
    )
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_a_high_temperature_tends_to_its_limit():
    s, t = torch.tensor([3, 0.5]).double(), torch.tensor([2, 0.75]).double()
    limit = t * (t / s).log() - t + s
    got = chunk_likelihood(
        STUDENT, TEACHER, two_to_one(), temperature=1e5, reduction="none"
    )
    torch.testing.assert_close(got, limit, rtol=1e-4, atol=1e-5)


def test_a_low_temperature_sees_only_certain_chunks():
    s, t = torch.tensor([-2.0, -1e-9]), torch.tensor([-1.0, -1e-9])
    got = chunk_likelihood(
        behind_first(s),
        behind_first(t),
        one_token_chunks(2),
        temperature=0.02,
        reduction="none",
    )
    assert got.max() < 1e-6


surprise = st.floats(0, 60, width=32)


@given(st.lists(st.tuples(surprise, surprise), min_size=1, max_size=6))
def test_distances_are_finite_never_negative_and_zero_for_the_same(pairs):
    s, t = (-torch.tensor(side) for side in zip(*pairs, strict=True))
    chunks = one_token_chunks(len(pairs))
    for form in FORMS:
        student = behind_first(s).requires_grad_()
        loss = chunk_likelihood(
            student, behind_first(t), chunks, form=form, reduction="sum"
        )
        loss.backward()
        assert loss.isfinite() and loss >= -1e-4
        assert student.grad.isfinite().all() and student.grad[0, 0] == 0
        same = chunk_likelihood(behind_first(t), behind_first(t), chunks, form=form)
        assert same == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tau", [1.0, 100.0])
def test_gradients_are_those_of_finite_differences(form, tau):
    student = STUDENT.clone().requires_grad_()
    end = torch.full_like(STUDENT, -0.3).requires_grad_()
    weight = torch.tensor([1.0, 3])
    assert torch.autograd.gradcheck(
        lambda s, e: chunk_likelihood(
            s,
            TEACHER,
            two_to_one(),
            form=form,
            temperature=tau,
            student_end=e,
            teacher_end=TEACHER - 9,
            weight=weight,
        ),
        (student, end),
    )


def test_the_gradient_vanishes_where_both_agree_and_never_reaches_the_teacher():
    for form in ("binary", "squared"):
        student = TEACHER[:, :2].clone().requires_grad_()
        teacher = TEACHER[:, :2].clone().requires_grad_()
        chunk_likelihood(student, teacher, one_token_chunks(1), form=form).backward()
        assert student.grad.abs().max() < 1e-9 and teacher.grad is None


def test_ends_are_added_at_the_last_token_of_a_chunk():
    ends = torch.tensor([[0.0, 100, -1, -2, 100]]).double()
    got = chunk_likelihood(
        STUDENT,
        TEACHER,
        two_to_one(),
        form="absolute",
        temperature=1,
        student_end=ends,
        teacher_end=0 * ends,
        reduction="none",
    )
    assert got.tolist() == [2.0, 1.75]


def test_chunks_weigh_as_told():
    weight = torch.tensor([0.0, 2])
    loss = chunk_likelihood(
        STUDENT, TEACHER, two_to_one(), form="absolute", weight=weight
    )
    assert loss.item() == 0.25
    nothing = chunk_likelihood(STUDENT, TEACHER, two_to_one(), weight=0 * weight)
    assert nothing.item() == 0


def test_an_impossible_chunk_counts_nothing():
    chunks = one_token_chunks(3)
    s = behind_first(torch.tensor([-1.0, -torch.inf, -2])).requires_grad_()
    t = behind_first(torch.tensor([-2.0, -1, -torch.inf]))
    for form in FORMS:
        loss = chunk_likelihood(s, t, chunks, form=form)
        alone = chunk_likelihood(s[:, :2], t[:, :2], one_token_chunks(1), form=form)
        assert loss == alone > 0
        loss.backward()
        assert s.grad.isfinite().all()


def test_no_chunk_is_zero_with_a_gradient_of_zero():
    s = torch.randn(1, 1, requires_grad=True)
    loss = chunk_likelihood(s, torch.randn(1, 1), one_token_chunks(0))
    loss.backward()
    assert loss == 0 and s.grad.tolist() == [[0]]


def test_a_nan_is_not_hidden():
    s = behind_first(torch.tensor([torch.nan]))
    assert chunk_likelihood(s, 0 * s - 1, one_token_chunks(1)).isnan()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"form": "kl"}, "form is 'kl'; give binary, squared, absolute"),
        ({"temperature": 0}, "temperature must be > 0"),
        ({"reduction": "max"}, "reduction is 'max'; give mean, sum, none"),
        ({"student_end": STUDENT}, "student_end is given without teacher_end"),
        ({"teacher_end": STUDENT}, "teacher_end is given without student_end"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        chunk_likelihood(STUDENT, TEACHER, two_to_one(), **wrong)
