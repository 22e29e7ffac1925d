import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.causality import check_causal
from align.tokenizer_align import (
    CausalCharIoUAligner,
    CharIoUAligner,
    LastTokenAligner,
    build_char_align_matrix,
    char_iou,
)
from align.tokens.batch import encode_batch
from align.tokens.overlap import lines, overlaps
from tests.small_tokenizers import outside

PAIRS = list(
    itertools.product(
        ["bytes", "metaspace-legacy", "words-lower", "bytes-chatml"],
        [
            "bytes-renumbered",
            "metaspace",
            "unigram-end",
            "unigram-left",
            "bytes-headers",
            "bytes-blank-first",
        ],
    )
)
PAIRS += itertools.product(
    outside("gpt2", "llama2", "bert-base-uncased", "qwen2.5"),
    outside("opt", "mistral-7b-v0.1", "t5-small", "chatglm-6b", "llama3"),
)


@pytest.fixture(scope="module")
def encoded(load, real_texts):
    """The real texts as a tokenizer cuts them, each encoded once."""
    return cache(lambda name: encode_batch(load(name), real_texts))


def dense(student_spans, teacher_spans):
    iou = char_iou(student_spans, teacher_spans)
    return iou / iou.sum(1, keepdim=True).clamp(min=1e-9)


def test_char_iou_counts_characters_not_bytes():
    # "深度KV": the student reads 深|度|KV|<eos>, the teacher 深度|KV
    student = torch.tensor([[0, 1], [1, 2], [2, 4], [4, 4]])
    teacher = torch.tensor([[0, 2], [2, 4]])
    expected = torch.tensor([[0.5, 0], [0.5, 0], [0, 1], [0, 0]])
    torch.testing.assert_close(char_iou(student, teacher), expected)


def test_char_iou_names_the_reversed_span():
    good, reversed_span = torch.tensor([[0, 2]]), torch.tensor([[3, 1]])
    with pytest.raises(ValueError, match=r"teacher_spans\[0\] is \[3, 1\]"):
        char_iou(good, reversed_span)
    with pytest.raises(ValueError, match=r"student_spans\[0\] is \[3, 1\]"):
        lines(reversed_span[None], good[None])


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_the_sparse_sweep_finds_exactly_the_dense_overlaps(
    encoded, real_texts, student, teacher
):
    s, t = encoded(student), encoded(teacher)
    got = CharIoUAligner()(s, t).dense()
    for row in range(len(real_texts)):
        torch.testing.assert_close(got[row], dense(s.spans[row], t.spans[row]))


spans = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 4)).map(lambda x: (x[0], sum(x))),
    min_size=1,
    max_size=9,
)


@given(st.lists(st.tuples(spans, spans), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_sweep_is_exact_for_spans_in_any_order_that_nest_or_repeat(samples):
    width = [max(len(pair[side]) for pair in samples) for side in (0, 1)]
    student = torch.zeros(len(samples), width[0], 2, dtype=torch.int64)
    teacher = torch.zeros(len(samples), width[1], 2, dtype=torch.int64)
    for row, (s, t) in enumerate(samples):
        student[row, : len(s)] = torch.tensor(s)
        teacher[row, : len(t)] = torch.tensor(t)
    student_line, teacher_line = lines(student, teacher)
    pairs = overlaps(student_line, teacher_line)
    assert (pairs.rows[1:] >= pairs.rows[:-1]).all() and (pairs.shared > 0).all()
    got = torch.zeros(len(samples) * width[0], len(samples) * width[1])
    cells = student_line.index[pairs.rows], teacher_line.index[pairs.cols]
    got[cells] = torch.from_numpy(pairs.shared / pairs.union).float()
    expected = torch.block_diag(
        *(char_iou(s, t) for s, t in zip(student, teacher, strict=True))
    )
    torch.testing.assert_close(got, expected)


def test_a_million_characters_align_without_a_dense_matrix():
    # 300,000 x 250,000 entries would need 300 GB
    ends_s = torch.arange(1, 300_001) * 5
    ends_t = torch.arange(1, 250_001) * 6
    student = torch.stack([ends_s - 5, ends_s], dim=1)[None]
    teacher = torch.stack([ends_t - 6, ends_t], dim=1)[None]
    pairs = overlaps(*lines(student, teacher))
    assert len(pairs.rows) == 500_000  # 10 pairs every 30 characters


# --- the future


def bytes_read(tokenizer, ids, lengths):
    """How many bytes of text the tokens up to each one spell: an exact account."""
    return torch.tensor([lengths[i] for i in ids.tolist()]).cumsum(0)


def leaks(alignment, student, teacher, read_s, read_t):
    """Pairs in which the teacher token has read more bytes than the student token."""
    total = 0
    _, s_width, t_width = alignment.shape
    for row, col in zip(alignment.rows.tolist(), alignment.cols.tolist(), strict=True):
        sample = row // s_width
        if read_t[sample][col % t_width] > read_s[sample][row % s_width]:
            total += 1
    return total


class NaiveGuard(CharIoUAligner):
    """The tempting guard: compare the ends of two spans."""

    def __call__(self, student, teacher):
        from dataclasses import replace

        found = super().__call__(student, teacher)
        end_s = student.spans[..., 1].reshape(-1)
        end_t = teacher.spans[..., 1].reshape(-1)
        keep = end_t[found.cols] <= end_s[found.rows]
        return replace(
            found,
            rows=found.rows[keep],
            cols=found.cols[keep],
            weights=found.weights[keep],
            shared=found.shared[keep],
        )


BYTE_PAIRS = [
    *itertools.permutations(["bytes", "bytes-headers", "bytes-longest"], 2),
    *itertools.permutations(outside("gpt2", "llama3", "rwkv-world"), 2),
]


@pytest.fixture(scope="module")
def read(load, real_texts):
    """Batches of real texts with the bytes read after each token, each read once."""

    @cache
    def read_one(name):
        from align.tokens.byte_lengths import ByteLengths

        tokenizer = load(name)
        lengths = ByteLengths.of(tokenizer).lengths.clip(0).tolist()
        batch = encode_batch(tokenizer, real_texts, add_special_tokens=False)
        counts = [bytes_read(tokenizer, ids, lengths).tolist() for ids in batch.ids]
        whole = batch.mask.sum(1) - 1
        for row, text in enumerate(real_texts):
            if text:  # the account is right: the last token has read every byte
                assert counts[row][int(whole[row])] == len(text.encode())
        return batch, counts

    return read_one


@pytest.mark.parametrize(("student", "teacher"), BYTE_PAIRS)
@pytest.mark.parametrize(
    "aligner",
    [
        CausalCharIoUAligner(),
        CausalCharIoUAligner(fallback_last=False),
        LastTokenAligner(),
    ],
)
def test_no_causal_aligner_lets_one_byte_of_the_future_through(
    read, aligner, student, teacher
):
    s, read_s = read(student)
    t, read_t = read(teacher)
    alignment = aligner(s, t)
    assert len(alignment.rows) > 500
    assert leaks(alignment, s, t, read_s, read_t) == 0
    check_causal(alignment, s, t)


@pytest.mark.parametrize("unguarded", [CharIoUAligner(), NaiveGuard()])
def test_without_the_guard_the_future_leaks_and_is_refused(read, unguarded):
    # NaiveGuard: a byte token of 饕 ends where the teacher's whole 饕 ends
    s, read_s = read("bytes")
    t, read_t = read("bytes-headers")
    alignment = unguarded(s, t)
    assert leaks(alignment, s, t, read_s, read_t) > 10
    with pytest.raises(ValueError, match="the future leaks"):
        check_causal(alignment, s, t)


def test_un_never_reads_unbelievable(tokens):
    text = "so unbelievable"
    student = tokens([(0, 2), (2, 5), (5, 11), (11, 15)], texts=(text,))
    teacher = tokens([(0, 2), (2, 15)], texts=(text,))
    everything = CharIoUAligner()(student, teacher).dense()[0]
    assert everything.tolist() == [[1, 0], [0, 1], [0, 1], [0, 1]]
    causal = CausalCharIoUAligner()(student, teacher).dense()[0]
    assert causal.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]
    strict = CausalCharIoUAligner(fallback_last=False)(student, teacher)
    assert strict.covered[0].tolist() == [True, False, False, True]


def test_a_composed_accent_does_not_reach_the_bare_letter(load):
    # NFC reads é as one character; without it comes e first, then the accent
    student = encode_batch(load("bytes"), ["cafe\u0301"])  # c|a|fe|..accent..
    teacher = encode_batch(load("bytes-chatml"), ["cafe\u0301"])  # c|a|f|é
    causal = CausalCharIoUAligner()(student, teacher).dense()[0]
    one, two, three, four = torch.eye(4).tolist()
    # fe may read f, and not é, whose accent it has not seen; the accent's first byte
    # has not read it whole
    assert causal.tolist() == [one, two, three, three, four]


def test_the_fallback_stays_in_its_own_text(tokens):
    texts = ("ab", "unbelievable")
    student = tokens([(0, 2)], [(0, 2), (2, 12)], texts=texts)
    teacher = tokens([(0, 2)], [(0, 12)], texts=texts)
    for aligner in (CausalCharIoUAligner(), LastTokenAligner()):
        # the first token of text 1 must not read the last token of text 0
        assert aligner(student, teacher).covered.tolist() == [
            [True, False],
            [False, True],
        ]


def test_last_token_gives_the_newest_readable_token_alone(tokens):
    student = tokens([(0, 0), (0, 6), (6, 9)], texts=("abcdef gh",))
    teacher = tokens([(0, 3), (3, 5), (5, 6), (6, 9), (9, 9)], texts=("abcdef gh",))
    expected = [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]
    got = LastTokenAligner()(student, teacher)
    assert got.dense()[0].tolist() == expected


@pytest.mark.parametrize("aligner", [CausalCharIoUAligner(), LastTokenAligner()])
def test_tokens_behind_a_teacher_that_was_cut_are_not_covered(load, aligner):
    texts = [" the" * 40]
    student = encode_batch(load("bytes"), texts)
    teacher = encode_batch(load("bytes-renumbered"), texts, max_length=11)
    alignment = aligner(student, teacher)
    assert alignment.covered[0].tolist() == [True] * 10 + [False] * 30
    assert alignment.coverage(student.has_text) == pytest.approx(10 / 40)


@pytest.mark.parametrize(
    "aligner", [CharIoUAligner(), CausalCharIoUAligner(), LastTokenAligner()]
)
@pytest.mark.parametrize(("student", "teacher"), PAIRS[::3])
def test_rows_of_every_aligner_sum_to_one_and_only_text_is_covered(
    encoded, aligner, student, teacher
):
    s, t = encoded(student), encoded(teacher)
    alignment = aligner(s, t)
    sums = alignment.dense().sum(-1)
    torch.testing.assert_close(sums, alignment.covered.float())
    assert not bool((alignment.covered & ~s.has_text).any())
    if aligner.causal:
        check_causal(alignment, s, t)
    else:
        assert alignment.coverage(s.has_text) > 0.6


def test_different_texts_are_refused(load):
    student = encode_batch(load("bytes"), ["a"])
    teacher = encode_batch(load("bytes-renumbered"), ["b"])
    with pytest.raises(ValueError, match="different texts"):
        CharIoUAligner()(student, teacher)


def test_empty_texts_align_to_nothing(load):
    student = encode_batch(load("bytes"), ["", ""])
    teacher = encode_batch(load("metaspace-legacy"), ["", ""])
    for aligner in (CharIoUAligner(), CausalCharIoUAligner(), LastTokenAligner()):
        alignment = aligner(student, teacher)
        assert alignment.shape == (2, 0, 1) and len(alignment.rows) == 0


# --- build_char_align_matrix


def test_the_matrix_of_spans_is_normalised_by_rows():
    A = build_char_align_matrix([(0, 1), (1, 4), (4, 4)], [(0, 2), (2, 4)], "abcd")
    # token (1, 4): IoU 1/4 with (0, 2) and 2/3 with (2, 4)
    expected = torch.tensor([[1, 0], [3 / 11, 8 / 11], [0, 0]])
    torch.testing.assert_close(A, expected)
    assert A.dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("bytes", "words-lower"),
        ("metaspace-legacy", "metaspace"),
        ("bytes-chatml", "bytes-headers"),
    ],
)
def test_printed_pieces_give_the_matrix_of_the_true_spans(load, student, teacher):
    text = "The unbelievable King of 1066, isn't he? 深度 éclair"
    batches = [encode_batch(load(n), [text]) for n in (student, teacher)]
    printed = [
        load(n).convert_ids_to_tokens(b.ids[0].tolist())
        for n, b in zip((student, teacher), batches, strict=True)
    ]
    expected = build_char_align_matrix(*(b.spans[0] for b in batches), text)
    got = build_char_align_matrix(*printed, text)
    # [UNK] does not tell what it stands for
    known = [i for i, piece in enumerate(printed[1]) if piece != "[UNK]"]
    assert len(known) >= 12
    assert torch.equal(got[:, known] > 0, expected[:, known] > 0)


def test_pieces_after_unknown_ones_are_found_again():
    pieces = ["[CLS]", "[UNK]", "ei", "##n", "[SEP]"]
    A = build_char_align_matrix([(0, 1), (2, 4), (4, 5)], pieces, "深 ÉIn")
    assert A.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]


def test_spans_beyond_the_text_are_refused():
    with pytest.raises(ValueError, match=r"teacher_tokens reaches 0\.\.5, but"):
        build_char_align_matrix([(0, 2)], [(0, 5)], "abcd")
