"""Documents are cut where a reader's room ends, and lose nothing."""

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import InputError
from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.text.fragment import Fragment, ends
from align.tokens.batch import encode_batch, end_id
from align.tokens.byte_lengths import ByteLengths
from align.tokens.cut import Cutter, Reader, piece_of, pieces_of, surely_at_most
from tests.everyday import some_daily
from tests.small_tokenizers import CHARACTERS, KINDS, small

PARTS = (
    "The router learns from the outcome which teacher helps which word; it isn't so. ",
    "满纸荒唐言，一把辛酸泪！都云作者痴，谁解其中味？",
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽",
    "e\u0301\u0302 n\u0303 क्षि ",
    "YWJjZGVmZ2hpamtsbW9ucHFyc3R1dnd4eXo",
    "def f(x):\r\n    return x * 2  # done\r\n\r\n",
    "\n\n   \t",
    " 12345678901234567890",
    "\ufdfa",
)


@cache
def known(name):
    """A tokenizer, on which nobody leaves a setting, with its table."""
    tokenizer = small(name)
    return tokenizer, ByteLengths.of(tokenizer)


def reader(name, limit):
    """Who reads as a run's student does."""
    tokenizer, table = known(name)

    def read(texts):
        return encode_batch(tokenizer, texts, byte_lengths=table, learn_end=True)

    return Reader(name, read, limit)


def mixture(seed, most=30):
    """A document of many scripts."""
    rng = random.Random(seed)
    return "".join(
        rng.choice(PARTS) * rng.randrange(1, 5) for _ in range(rng.randrange(1, most))
    )


def spans_of(readers, texts):
    cutter = Cutter(readers)
    samples = [TextSample(text, "d", str(i)) for i, text in enumerate(texts)]
    found = list(cutter.spans(samples))
    assert [sample.text for sample, _ in found] == list(texts)
    return [spans for _, spans in found], cutter.tally


DAILY = ("bytes", "words", "unigram-left", "metaspace")


@pytest.mark.parametrize("name", some_daily(KINDS, lambda name: name in DAILY))
@settings(max_examples=3)
@given(
    seed=st.integers(0, 10_000),
    limit=st.sampled_from([16, 40, 128]),
    text=st.text(CHARACTERS, max_size=200),
)
def test_pieces_fit_and_joined_are_the_document(name, seed, limit, text):
    one = reader(name, limit)
    documents = [mixture(seed), text, mixture(seed + 1) + text]
    found, tally = spans_of([one], documents)
    for document, spans in zip(documents, found, strict=True):
        parts = [piece_of(document, span) for span in spans]
        assert "".join(parts) == document
        assert all(parts)
        if parts:
            counts = one.read(parts).mask.sum(1)
            wide = int(counts.max()) > limit
            assert not wide or tally.indivisible
            assert all(len(parts[i]) == 1 for i in (counts > limit).nonzero()[:, 0])


@pytest.mark.parametrize("name", ["bytes", "metaspace-legacy", "unigram-end", "words"])
def test_the_last_piece_alone_ends_its_document(name):
    one, document = reader(name, 16), mixture(3)
    pieces = pieces_of(
        TextSample(document, "d", "i"), spans_of([one], [document])[0][0]
    )
    assert len(pieces) > 3
    assert [ends(piece.text) for piece in pieces] == [False] * (len(pieces) - 1) + [
        True
    ]
    batch = one.read([piece.text for piece in pieces])
    said = (batch.ids == end_id(known(name)[0])) & batch.mask
    last = batch.mask.sum(1) - 1
    expected = [0] * (len(pieces) - 1) + [int(end_id(known(name)[0]) is not None)]
    assert said.sum(1).tolist() == expected
    if expected[-1]:
        assert bool(said[-1, last[-1]])


def test_a_document_that_fits_stays_the_very_same_text():
    sample = TextSample("A short one.", "d", "file:1")
    (piece,) = Cutter([reader("bytes", 64)]).pieces([sample])
    assert piece == sample
    assert not isinstance(piece.text, Fragment)


def test_one_dense_document_cuts_no_other():
    plain = [mixture(seed).replace("满", "a") for seed in range(40)]
    one = reader("bytes", 32)
    alone, _ = spans_of([one], plain)
    beside, _ = spans_of([one], [*plain, "荒唐言" * 900])
    assert beside[:-1] == alone


def test_pieces_are_filled_whatever_their_script():
    text = "一把辛酸泪" * 300
    (spans,), _ = spans_of([reader("bytes", 100)], [text])
    counts = reader("bytes", 100).read([piece_of(text, s) for s in spans]).mask.sum(1)
    assert float(counts[:-1].float().mean()) > 80


def test_a_second_reader_cuts_what_is_dense_for_it_and_nothing_else():
    student, other = reader("words", 60), reader("bytes", 200)
    sparse = ["The outcome tells which teacher helps. " * 20, "A short one."]
    dense = "१२३४५ " * 60
    alone, _ = spans_of([student], [*sparse, dense])
    found, tally = spans_of([student, other], [*sparse, dense])
    assert found[:2] == alone[:2]
    assert len(found[2]) > len(alone[2])
    assert 1 <= tally.by["bytes"] <= len(found[2])
    parts = [piece_of(dense, span) for span in found[2]]
    assert "".join(parts) == dense
    assert int(other.read(parts).mask.sum(1).max()) <= 200


def test_cuts_keep_line_ends_and_composed_characters_whole():
    text = "ab\r\n" * 200 + "e\u0301" * 200 + "👩‍👩‍👧" * 60
    (spans,), _ = spans_of([reader("bytes", 48)], [text])
    for _, stop in spans[:-1]:
        assert text[stop - 1 : stop + 1] != "\r\n"
        assert text[stop] not in "\u0301\u200d"
        assert text[stop - 1] != "\u200d"


def test_a_character_too_dense_for_the_room_stands_alone_and_is_told():
    (spans,), tally = spans_of([reader("bytes", 2)], ["a👩b"])
    assert spans == [(0, 1), (1, 2), (2, 3)]
    assert tally.indivisible == {"bytes": "0"}


def test_blanks_at_the_end_stand_with_a_word_before_them():
    for blanks in range(1, 8):
        text = "the outcome of it tells. " * 3 + " \n" * blanks
        spans = spans_of([reader("bytes", 16)], [text])[0][0]
        assert all(text[start:stop].strip() for start, stop in spans)


def test_blanks_beyond_the_room_of_a_last_character_stand_alone():
    text = "the outcome of it tells. " * 3 + " \n" * 30 + "\ufdfa" + "\n" * 30
    (spans,), _ = spans_of([reader("bytes", 16)], [text])
    assert "".join(text[start:stop] for start, stop in spans) == text
    assert not text[slice(*spans[-1])].strip()


def test_the_last_piece_of_a_text_that_goes_on_does_not_end_it():
    sample = TextSample(Fragment(mixture(3)), "d", "i")
    pieces = list(Cutter([reader("bytes", 16)]).pieces([sample]))
    assert len(pieces) > 3
    assert not any(ends(piece.text) for piece in pieces)
    short = TextSample(Fragment("Goes on"), "d", "i")
    assert list(Cutter([reader("bytes", 64)]).pieces([short])) == [short]


def test_blank_pieces_are_left_out_and_the_piece_before_them_ends_the_text():
    text = "Words. " * 30 + "\n" * 400
    pieces = list(Cutter([reader("bytes", 16)]).pieces([TextSample(text, "d", "i")]))
    assert all(piece.text.strip() for piece in pieces)
    assert [ends(piece.text) for piece in pieces[-2:]] == [False, True]
    assert (
        list(Cutter([reader("bytes", 16)]).pieces([TextSample(" " * 9, "d", "i")]))
        == []
    )


def test_what_was_cut_is_counted():
    talk = Conversation([{"role": "user", "content": "Which word? " * 40}])
    short = Conversation([{"role": "user", "content": "Yes."}])
    _, tally = spans_of(
        [reader("bytes", 16)], ["One.", "Two words. " * 40, talk, short]
    )
    assert (tally.documents, tally.long) == (2, 1)
    assert tally.pieces > 5
    assert (tally.conversations, tally.shortened) == (2, 1)
    assert tally.contents == len(talk) + len(short)
    assert len(short) < tally.kept < tally.contents


@pytest.mark.parametrize(
    "name", ["bytes", "bytes-chatml", "bytes-headers", "metaspace"]
)
def test_a_conversation_is_cut_once_where_its_room_ends(name):
    turns = [
        {"role": ["user", "assistant"][i % 2], "content": f"Turn {i}: 荒唐言 word."}
        for i in range(12)
    ]
    talk, one = Conversation(turns), reader(name, 64)
    ((start, stop),) = spans_of([one], [talk])[0][0]
    assert 0 == start < stop < len(talk)
    piece = piece_of(talk, (start, stop))
    assert piece.goes_on
    batch = one.read([piece])
    assert int(batch.mask.sum()) <= 64
    assert int(batch.touched_until.max()) == len(piece)
    assert bool(batch.has_text[0, int(batch.mask.sum()) - 1])  # nothing follows the cut


def test_a_template_longer_than_the_room_leaves_no_conversation():
    talk = Conversation([{"role": "user", "content": "Hi."}])
    assert (
        list(Cutter([reader("bytes-headers", 3)]).pieces([TextSample(talk, "d", "i")]))
        == []
    )


def test_a_reader_that_refuses_a_conversation_is_named_with_the_sample():
    def read(texts):
        if any(isinstance(text, Conversation) for text in texts):
            raise InputError("the chat template refuses it")
        return encode_batch(known("bytes")[0], texts)

    talk = Conversation([{"role": "user", "content": "Hi."}])
    samples = [TextSample("plain", "d", "a:1"), TextSample(talk, "d", "a:2")]
    with pytest.raises(InputError, match=r"^teachers\.t: a:2: the chat template"):
        list(Cutter([Reader("teachers.t", read, 9)]).pieces(samples))


@pytest.mark.parametrize("name", KINDS)
def test_no_tokenizer_makes_more_tokens_of_ascii_than_is_taken_for_sure(name):
    rng = random.Random(1)
    texts = ["".join(chr(rng.randrange(1, 128)) for _ in range(60)) for _ in range(50)]
    texts += ["\n" * 60, " " * 60, "<s>" * 20, "</s> " * 12]
    counts = encode_batch(known(name)[0], texts, learn_end=True).mask.sum(1)
    assert int(counts.max()) <= 2 * 60 + 16
    assert surely_at_most(136, "x" * 60)
    assert not surely_at_most(135, "x" * 60)
    assert not surely_at_most(1000, "é")
