import math
from collections import Counter

import pytest
import torch

from align.text.conversation import Conversation
from align.tokens.batch import TokenBatch, encode_batch
from student.output import chunk_likelihood, common_chunks, shared_chunks
from tests.small_tokenizers import outside, sections

PAIRS = [
    ("bytes-chatml", "metaspace-legacy"),
    ("metaspace-legacy", "bytes"),
    ("unigram-end", "bytes-headers"),
    *zip(outside("qwen2.5"), outside("llama2"), strict=True),
]
TEXTS = [
    "An unbelievable misunderstanding, isn't it?",
    "深度KV：饕餮😀很好👩‍👩‍👧！ 深",
    "",
    "  x\r\n y",
]


def batch(*rows, texts):
    """Tokens by their spans; rows are padded on the right."""
    width = max(map(len, rows))
    spans = torch.zeros(len(rows), width, 2, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        spans[row, : len(tokens)] = torch.tensor(tokens).reshape(-1, 2)
        mask[row, : len(tokens)] = True
    return TokenBatch(mask.long(), mask, spans, tuple(texts))


def spelled(side, tokens):
    """The text of each chunk, by the spans of the tokens that spell it."""
    out = []
    for chunk in range(len(side.last)):
        rows, cols = (side.chunk == chunk).nonzero(as_tuple=True)
        own = tokens.spans[rows[0], cols]
        out.append(tokens.texts[rows[0]][int(own[0, 0]) : int(own[-1, 1])])
    return out


def naive_chunks(student, teacher):
    """Whole chunks of plain texts, found character by character.

    Of each: student's and teacher's tokens, as sets of (text, token).
    """
    found = []
    for row, text in enumerate(student.texts):
        cuts = []
        for side in (student, teacher):
            spans = [
                (i, *s)
                for i, s in enumerate(side.spans[row].tolist())
                if side.mask[row, i]
            ]
            held = [(i, a, b) for i, a, b in spans if b > a]
            last = {b: i for i, _, b in held}  # the last token that ends there
            cuts.append(
                {
                    e: last[e]
                    for e in range(1, len(text) + 1)
                    if e in last
                    and all(b <= e or (a >= e and i > last[e]) for i, a, b in held)
                }
            )
        begin = [0, 0]
        for end in sorted(cuts[0].keys() & cuts[1].keys()):
            tokens = [range(begin[k], cuts[k][end] + 1) for k in (0, 1)]
            begin = [cuts[k][end] + 1 for k in (0, 1)]
            first_held = [
                side.spans[row, 0, 1] > side.spans[row, 0, 0]
                for side in (student, teacher)
            ]
            if any(held and 0 in t for held, t in zip(first_held, tokens, strict=True)):
                continue
            found.append([{(row, i) for i in t if i > 0} for t in tokens])
    return found


def test_chunks_end_where_both_end_and_begin_after_the_last():
    text = ("unbelievable cat",)
    student = batch([(0, 0), (0, 2), (2, 12), (12, 16)], texts=text)
    teacher = batch([(0, 0), (0, 8), (8, 12), (12, 14), (14, 16)], texts=text)
    chunks = shared_chunks(student, teacher)
    assert len(chunks) == 2
    assert chunks.student.chunk.tolist() == [[-1, 0, 0, 1]]
    assert chunks.teacher.chunk.tolist() == [[-1, 0, 0, 1, 1]]
    assert (chunks.student.first.tolist(), chunks.student.last.tolist()) == (
        [1, 3],
        [2, 3],
    )
    assert (chunks.teacher.first.tolist(), chunks.teacher.last.tolist()) == (
        [1, 3],
        [2, 4],
    )
    assert chunks.coverage(student.has_text) == 1


@pytest.mark.parametrize("names", PAIRS)
def test_chunks_are_those_found_character_by_character(names, load, real_texts):
    student, teacher = (encode_batch(load(n), TEXTS + real_texts[-3:]) for n in names)
    chunks = shared_chunks(student, teacher)
    expected = naive_chunks(student, teacher)
    got = [
        [set(map(tuple, (side.chunk == n).nonzero().tolist())) for side in sides]
        for sides in [(chunks.student, chunks.teacher)]
        for n in range(len(chunks))
    ]
    assert got == expected
    for side in (chunks.student, chunks.teacher):
        tokens = side.chunk.shape[1]
        for n, (first, last) in enumerate(zip(side.first, side.last, strict=True)):
            own = (side.chunk.view(-1) == n).nonzero()[:, 0]
            assert (own[0], own[-1]) == (first, last)
            assert first % tokens > 0


def test_both_sides_spell_the_same_text(load, real_texts):
    student, teacher = (encode_batch(load(n), real_texts) for n in PAIRS[0])
    chunks = shared_chunks(student, teacher)
    assert spelled(chunks.student, student) == spelled(chunks.teacher, teacher)
    assert len(chunks) > 100


def test_chunks_of_three_end_where_all_of_them_do():
    text = ("unbelievable cat",)
    models = [
        batch([(0, 0), (0, 2), (2, 12), (12, 16)], texts=text),
        batch([(0, 0), (0, 2), (2, 8), (8, 12), (12, 14), (14, 16)], texts=text),
        batch([(0, 2), (2, 14), (14, 16)], texts=text),
    ]
    chunks = common_chunks(models)
    # 0..2 is a first token of the third model, which it never predicts.
    assert [side.chunk.tolist() for side in chunks.sides] == [
        [[-1, -1, 0, 0]],
        [[-1, -1, 0, 0, 0, 0]],
        [[-1, 0, 0]],
    ]
    assert (chunks.text.tolist(), chunks.characters.tolist()) == ([0], [14])
    alone = common_chunks(models[:1])
    assert alone.characters.tolist() == [2, 10, 4]


def test_chunks_of_two_are_the_shared_ones(load, real_texts):
    models = [encode_batch(load(n), TEXTS + real_texts[-3:]) for n in PAIRS[0]]
    common, shared = common_chunks(models), shared_chunks(*models)
    for side, other in zip(common.sides, (shared.student, shared.teacher), strict=True):
        assert torch.equal(side.chunk, other.chunk)
        assert torch.equal(side.last, other.last)
    texts = models[0].texts
    for row, spelling in enumerate(texts):
        mine = common.characters[common.text == row]
        assert int(mine.sum()) <= len(spelling)
    assert len(common) == len(shared) > 20


def perfect(tokens):
    """(B, T) log probabilities by a model that knows how often each text comes."""
    counts = Counter()
    rows = [
        row[held].tolist() for row, held in zip(tokens.ids, tokens.mask, strict=True)
    ]
    for ids in rows:
        counts.update(tuple(ids[:end]) for end in range(len(ids) + 1))
    out = torch.zeros(tokens.ids.shape, dtype=torch.float64)
    for row, ids in enumerate(rows):
        for place in range(len(ids)):
            before, after = counts[tuple(ids[:place])], counts[tuple(ids[: place + 1])]
            out[row, place] = math.log(after / before)
    return out


def test_two_perfect_models_of_one_language_agree_on_every_character(load):
    language = list("".join((sections()["Chinese"] + sections()["novel"]).split()))
    names = "bytes-headers", "metaspace-legacy"
    student, teacher = (encode_batch(load(name), language) for name in names)
    chunks = shared_chunks(student, teacher)
    assert len(chunks) == len(language)
    several = [
        side.sum(torch.ones(side.chunk.shape))
        for side in (chunks.student, chunks.teacher)
    ]
    assert ((several[0] > 1) & (several[1] > 2)).sum() > 50  # bytes of both, behind a ▁
    log_p = perfect(student), perfect(teacher)
    distance = chunk_likelihood(*log_p, chunks, form="absolute", reduction="none")
    assert distance.max() < 1e-9
    expected = [math.log(Counter(language)[char] / len(language)) for char in language]
    torch.testing.assert_close(
        chunks.student.sum(log_p[0]), torch.tensor(expected, dtype=torch.float64)
    )


def test_inside_a_character_the_same_bytes_are_not_the_same_event():
    # 很 is e5 be 88 and comes nine times in ten, 徕 is e5 be 95. The student has a
    # token for 很, the teacher has bytes alone; both know the language perfectly.
    text = ("徕",)
    tokens = batch([(0, 0), (0, 1), (0, 1), (0, 1)], texts=text)
    student = torch.tensor([[1.0, 0.1, 1.0, 1.0]]).log()  # e5 says that it is not 很
    teacher = torch.tensor([[1.0, 1.0, 1.0, 0.1]]).log()  # the last byte says so
    chunks = shared_chunks(tokens, tokens)
    assert chunks.student.chunk.tolist() == [[-1, 0, 0, 0]]  # and not three chunks
    assert chunk_likelihood(student, teacher, chunks, form="absolute") == 0
    bytewise = (student - teacher).abs()[0, 1:]
    torch.testing.assert_close(bytewise, torch.tensor([10.0, 1.0, 10.0]).log())


def test_a_first_word_that_one_model_does_not_predict_is_no_chunk():
    text = ("one two",)
    with_start = batch([(0, 0), (0, 3), (3, 7)], texts=text)
    without = batch([(0, 3), (3, 7)], texts=text)
    for pair in [(with_start, without), (without, with_start)]:
        chunks = shared_chunks(*pair)
        assert spelled(chunks.student, pair[0]) == [" two"]


def test_a_bare_marker_belongs_to_the_text_behind_it():
    text = ("深度",)
    marked = batch([(0, 0), (0, 0), (0, 1), (1, 2)], texts=text)
    chunks = shared_chunks(marked, batch([(0, 0), (0, 2)], texts=text))
    assert chunks.student.chunk.tolist() == [[-1, 0, 0, 0]]
    assert chunks.student.first.tolist() == [1]


def test_of_a_conversation_only_contents_spell():
    turns = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    chat = (Conversation(turns),)
    # header, "ab", end of turn, header, "cd", end of turn
    student = batch([(0, 0), (0, 2), (2, 2), (2, 2), (2, 4), (4, 4)], texts=chat)
    teacher = batch([(0, 0), (0, 1), (1, 2), (2, 2), (2, 4)], texts=chat)
    chunks = shared_chunks(student, teacher)
    assert chunks.student.chunk.tolist() == [[-1, 0, -1, -1, 1, -1]]
    assert chunks.teacher.chunk.tolist() == [[-1, 0, 0, -1, 1]]


def test_at_blanks_words_are_whole_and_the_last_is_left_out():
    text = ("so un-unbelieve able no",)
    student = batch(
        [(0, 0), (0, 2), (2, 5), (5, 8), (8, 15), (15, 20), (20, 23)], texts=text
    )
    teacher = batch([(0, 0), (0, 2), (2, 5), (5, 15), (15, 20), (20, 23)], texts=text)
    chunks = shared_chunks(student, teacher, at_blanks=True)
    assert spelled(chunks.student, student) == ["so", " un-unbelieve", " able"]
    assert spelled(chunks.teacher, teacher) == ["so", " un-unbelieve", " able"]


def test_texts_without_chunks_give_none():
    empty = batch([(0, 0)], [(0, 0)], texts=("", ""))
    chunks = shared_chunks(empty, empty)
    assert len(chunks) == 0 and chunks.coverage(empty.has_text) == 1
    assert chunks.student.sum(torch.full((2, 1), torch.nan)).shape == (0,)


def test_different_texts_are_refused():
    with pytest.raises(ValueError, match="different texts"):
        shared_chunks(batch([(0, 1)], texts=("a",)), batch([(0, 1)], texts=("b",)))


def test_a_sum_reads_nothing_outside_and_names_wrong_shapes():
    text = ("ab",)
    tokens = batch([(0, 0), (0, 1), (1, 2)], texts=text)
    side = shared_chunks(tokens, batch([(0, 0), (0, 2)], texts=text)).student
    values = torch.tensor([[torch.nan, 1, 2]], dtype=torch.bfloat16)
    total = side.sum(values)
    assert total.tolist() == [3] and total.dtype == torch.float32
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        side.sum(torch.zeros(2, 3))
