import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.causality import check_causal
from align.head_dim_adapter import MultiTeacherHeadDimAdapter
from align.kv import KV
from align.time_align import (
    Alignment,
    align_sequence_lengths,
    apply_char_alignment,
)
from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner
from align.tokens.batch import TokenBatch, encode_batch


def example():
    """Two texts, T_s = 3, T_t = 2; the last student token of text 0 is uncovered."""
    return Alignment(
        rows=torch.tensor([0, 1, 1, 3, 4, 5]),
        cols=torch.tensor([0, 0, 1, 2, 3, 3]),
        weights=torch.tensor([1, 0.25, 0.75, 1, 1, 1]),
        shape=(2, 3, 2),
        shared=torch.tensor([2.0, 1, 3, 1, 1, 4]),
    )


def random_kv(layers, batch, heads, tokens, size):
    k = torch.randn(layers, batch, heads, tokens, size)
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    return KV(k, torch.randn(layers, batch, heads, tokens, size + 1), mask)


def test_apply_averages_by_hand():
    x = torch.tensor([[[10.0], [20.0]], [[1.0], [2.0]]])  # (B, T_t, C)
    assert example().apply(x).tolist() == [
        [[10.0], [17.5], [0.0]],
        [[1.0], [2.0], [2.0]],
    ]


@given(st.integers(0, 3), st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_apply_equals_the_dense_product(leading, width, random):
    torch.manual_seed(random.randint(0, 10**6))
    a = example()
    x = torch.randn(*[2] * leading, 2, 2, width)
    torch.testing.assert_close(a.apply(x), a.dense() @ x)


def test_the_gradient_reaches_the_teacher_s_values():
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    a = example()
    a = Alignment(a.rows, a.cols, a.weights.double(), a.shape)
    assert torch.autograd.gradcheck(a.apply, (x,))


def test_sums_of_half_precision_are_made_in_float32():
    # 256 + 255 times 1/256: in bfloat16 every further step would be lost
    count = 256
    a = Alignment(
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count),
        torch.full((count,), 1 / count),
        (1, 1, count),
    )
    x = torch.full((1, count, 1), 3.0, dtype=torch.bfloat16)
    x[0, 0] = 256
    out = a.apply(x)
    assert out.dtype == torch.bfloat16
    assert out.item() == pytest.approx((256 + 3 * 255) / 256, rel=2**-8)


def test_an_empty_alignment_gives_zeros_and_no_error():
    none = torch.zeros(0, dtype=torch.int64)
    a = Alignment(none, none, torch.zeros(0), (2, 3, 0))
    x = torch.zeros(4, 2, 0, 5, requires_grad=True)
    out = a.apply(x)
    assert out.shape == (4, 2, 3, 5) and not out.any()
    out.sum().backward()  # stays part of the graph
    assert a.dense().shape == (2, 3, 0)


def test_coverage_counts_only_tokens_with_text():
    a = example()
    assert a.covered.tolist() == [[True, True, False], [True, True, True]]
    text = torch.tensor([[True, True, True], [True, False, False]])
    assert a.coverage(text) == 0.75
    assert a.coverage(torch.zeros(2, 3, dtype=torch.bool)) == 1.0


def test_a_student_token_without_teacher_text_gets_no_target(load):
    # BERT's drops blanks; a token of two of them, a|␣␣|␣b, learns nothing from it
    student = encode_batch(load("bytes"), ["a   b"])
    teacher = encode_batch(load("words-lower"), ["a   b"])
    a = CharIoUAligner()(student, teacher)
    assert a.covered[0].tolist() == [True, False, True]
    assert a.coverage(student.has_text) == pytest.approx(2 / 3)
    assert not a.apply(torch.ones(1, 4, 2))[0, 1].any()


def test_spread_mass_keeps_the_total_and_divides_by_characters():
    # teacher token 0 of text 0 shares 2 and 1 characters with student tokens 0, 1
    spread = example().spread_mass().dense()
    expected = torch.tensor(
        [[[2 / 3, 0], [1 / 3, 1], [0, 0]], [[1, 0], [0, 0.2], [0, 0.8]]]
    )
    torch.testing.assert_close(spread, expected)
    mass = torch.rand(2, 2, 1)
    total = example().spread_mass().apply(mass).sum(1)
    torch.testing.assert_close(total, mass.sum(1))


def test_spread_mass_of_columns_fed_only_by_fallback_is_not_lost():
    a = Alignment(
        torch.tensor([0, 1]),
        torch.tensor([0, 0]),
        torch.ones(2),
        (1, 2, 1),
        shared=torch.zeros(2),
    )
    assert a.spread_mass().dense()[0].tolist() == [[0.5], [0.5]]


def test_adapting_first_and_aligning_first_give_the_same(load, real_texts):
    student = encode_batch(load("bytes"), real_texts)
    teacher = encode_batch(load("metaspace-legacy"), real_texts)
    a = CharIoUAligner()(student, teacher)
    adapter = MultiTeacherHeadDimAdapter([(12, 3)], 6, 2, num_layers=2)
    torch.nn.init.normal_(adapter.weight_k[0])
    torch.nn.init.normal_(adapter.bias_k[0])
    k = torch.randn(2, *teacher.ids.shape, 12)
    adapted_first = a.apply(adapter.adapt(0, k, k)[0])
    aligned_first = adapter.adapt(0, a.apply(k), a.apply(k))[0]
    covered = a.covered
    torch.testing.assert_close(
        adapted_first[:, covered], aligned_first[:, covered], atol=2e-5, rtol=1e-4
    )


def test_mistakes_in_an_alignment_are_named():
    index = torch.tensor([1, 0])
    with pytest.raises(ValueError, match=r"Alignment\.rows must ascend"):
        Alignment(index, index, torch.ones(2), (1, 2, 2))
    with pytest.raises(ValueError, match=r"Alignment\.cols reaches 0\.\.5"):
        Alignment(torch.tensor([0, 0]), torch.tensor([0, 5]), torch.ones(2), (1, 2, 2))
    with pytest.raises(ValueError, match=r"Alignment\.weights has shape"):
        Alignment(index, index, torch.ones(3), (1, 2, 2))
    with pytest.raises(ValueError, match=r"alignment is for \(\.\.\., 2, 2, C\)"):
        example().apply(torch.zeros(2, 3, 1))


# --- documented calls


@pytest.mark.parametrize("kind", ["alignment", "dense"])
def test_a_kv_is_carried_with_its_heads(kind):
    kv = random_kv(3, 2, 2, 2, 4)
    a = example()
    out = apply_char_alignment(kv, a if kind == "alignment" else a.dense())
    assert out.k.shape == (3, 2, 2, 3, 4) and out.v.shape == (3, 2, 2, 3, 5)
    expected = torch.einsum("bst,lbhtd->lbhsd", a.dense(), kv.k)
    torch.testing.assert_close(out.k, expected)
    assert torch.equal(out.mask, a.covered)


def test_one_matrix_serves_a_tensor_of_any_leading_axes():
    A = torch.tensor([[1.0, 0], [0.5, 0.5], [0, 1]])
    x = torch.tensor([[2.0], [4.0]])
    assert apply_char_alignment(x, A).tolist() == [[2], [3], [4]]
    assert apply_char_alignment(x.expand(5, 6, 2, 1), A).shape == (5, 6, 3, 1)
    with pytest.raises(ValueError, match=r"A has shape \(3, 2\)"):
        apply_char_alignment(torch.zeros(3, 1), A)
    with pytest.raises(ValueError, match="the KV has 4 tokens"):
        apply_char_alignment(random_kv(1, 1, 1, 4, 1), A)


def test_lengths_are_made_equal_by_the_alignment():
    teacher, student = random_kv(2, 2, 1, 2, 3), random_kv(2, 2, 1, 3, 3)
    t, s, t_mask, s_mask = align_sequence_lengths(
        teacher, student, align_matrix=example()
    )
    assert t.num_tokens == s.num_tokens == 3 and s is student
    assert torch.equal(t_mask, example().covered) and bool(s_mask.all())


def test_without_an_alignment_the_shorter_is_padded_and_nothing_is_cut():
    teacher, student = random_kv(2, 1, 1, 2, 3), random_kv(2, 1, 1, 4, 3)
    t, s, t_mask, s_mask = align_sequence_lengths(teacher, student)
    assert t.num_tokens == s.num_tokens == 4
    assert torch.equal(t.k[..., :2, :], teacher.k) and not t.k[..., 2:, :].any()
    assert t_mask.tolist() == [[True, True, False, False]]
    assert torch.equal(t.mask, t_mask) and s_mask.tolist() == [[True] * 4]
    a, b, a_mask, b_mask = align_sequence_lengths(torch.ones(5, 2), torch.ones(3, 2))
    assert a.shape == b.shape == (5, 2) and b.sum() == 6
    assert a_mask.tolist() == [True] * 5 and b_mask.tolist() == [True] * 3 + [False] * 2


def test_a_leak_is_named_with_its_tokens(tokens):
    student = tokens([(0, 2), (2, 12)], texts=("unbelievable",))
    teacher = tokens([(0, 12)], texts=("unbelievable",))
    alignment = CharIoUAligner()(student, teacher)
    with pytest.raises(
        ValueError, match=r"student token 0 'un' has read 2 .* 'unbelievable', which"
    ):
        check_causal(alignment, student, teacher)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives():
    ends_s, ends_t = torch.arange(1, 301) * 5, torch.arange(1, 251) * 6
    student, teacher = (
        TokenBatch(
            ends[None],
            ends[None] > 0,
            torch.stack([ends - n, ends], -1)[None],
            ("x" * 1500,),
        )
        for ends, n in ((ends_s, 5), (ends_t, 6))
    )
    x = torch.randn(2, 1, 250, 16)
    for aligner in (CharIoUAligner(), CausalCharIoUAligner()):
        here = aligner(student, teacher)
        there = aligner(student.to("cuda"), teacher.to("cuda"))
        assert there.rows.is_cuda and there.weights.is_cuda
        assert torch.equal(there.dense().cpu(), here.dense())
        check_causal(
            CausalCharIoUAligner()(student.to("cuda"), teacher.to("cuda")),
            student.to("cuda"),
            teacher.to("cuda"),
        )
        on_gpu = x.cuda().requires_grad_()
        on_cpu = x.clone().requires_grad_()
        carried, expected = there.apply(on_gpu), here.apply(on_cpu)
        torch.testing.assert_close(carried.cpu(), expected)
        carried.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(on_gpu.grad.cpu(), on_cpu.grad)
