"""Every pair of tokenizers, on every corpus and on text that no corpus has."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.causality import check_causal
from align.tokenizer_align import (
    CausalCharIoUAligner,
    CharIoUAligner,
    ChunkEndAligner,
    LastTokenAligner,
)
from align.tokens.batch import encode_batch
from align.tokens.overlap import lines, overlaps
from tests.align import definitions
from tests.align.definitions import Reading
from tests.small_tokenizers import CHARACTERS, EVERY, SHARED, sections

ALIGNERS = {
    "char_iou": CharIoUAligner(),
    "causal_char_iou": CausalCharIoUAligner(),
    "last_token": LastTokenAligner(),
    "chunk_end": ChunkEndAligner(),
}
PAIRS = list(itertools.product(EVERY, EVERY))
SOME = [(name, EVERY[(place + 5) % len(EVERY)]) for place, name in enumerate(EVERY)]
CORPORA = [
    "tinyshakespeare/*.txt",
    "wikitext-2/valid.txt",
    "wikitext-2/test.txt",
    "gsm8k/*test*",
    "multi30k/*val*",
    "ntrex/*eng*",
    "ntrex/*zho*",
    "ntrex/*deu*",
    "ntrex/*fra*",
    "hongloumeng/*.txt",
    "zh-wikipedia-gsdsimp/*",
]
ODD = [
    "",
    " ",
    "\x00",
    "\n\n\r\n\t \u3000",
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇨🇳",
    "e\u0301\u0323 a\u0308\u0304 \u1112\u1161\u11ab",
    "שלום עולם مرحبا \u202eabc\u202c",
    "\x01\x1f\x7f\u200b\ufeff\u2028 ",
    "<unk> </s><s>[UNK] <|endoftext|>x",
    "▁a ▁ b",
    "ﬁ ① Ａ ㍿ ½",
    "饕餮龘 𠀀 饕",
]


class Sides(dict):
    """Each tokenizer with its table of byte lengths, by name."""

    def __repr__(self):
        return "Sides"  # hypothesis prints what it was given


@pytest.fixture(scope="module")
def sides(load, table):
    return Sides((name, (load(name), table(name))) for name in EVERY)


@pytest.fixture(scope="module")
def excerpts():
    """One piece of every corpus, from its middle, and what no corpus has."""
    files = (file for where in CORPORA for file in (SHARED / "corpora").glob(where))
    texts = [*sections().values(), *(file.read_bytes().decode() for file in files)]
    return [*map(middle, texts), *ODD]


def middle(text):
    """Some 220 bytes of it: a definition takes time with the square of its tokens, of
    which a vocabulary without Chinese has one a byte."""
    at = len(text) // 2
    return text[at : at + 220].encode()[:220].decode(errors="ignore")


def encoded(sides, names, texts):
    return {
        name: encode_batch(sides[name][0], texts, byte_lengths=sides[name][1])
        for name in names
    }


def readings(batch):
    return [
        Reading(spans.numpy(), len(text))
        for spans, text in zip(batch.spans, batch.texts, strict=True)
    ]


def check_spans(batch):
    """Inside the text, never going back, nothing on padding."""
    assert bool((batch.spans[~batch.mask].diff(dim=-1) == 0).all())
    for spans, held, text in zip(batch.spans, batch.has_text, batch.texts, strict=True):
        own = spans[held]
        if len(own):
            assert int(own.min()) >= 0 and int(own.max()) <= len(text)
            assert bool((own[1:] >= own[:-1]).all())


def check_pair(student, teacher, read_s, read_t):
    """All aligners against their definitions; returns the coverage of each."""
    coverage = {}
    for name, aligner in ALIGNERS.items():
        found = aligner(student, teacher)
        coverage[name] = found.coverage(student.has_text)
        got = found.dense().numpy()
        sums = got.sum(-1)
        assert ((np.abs(sums - 1) <= 1e-5) | (sums == 0)).all()
        _, s_width, t_width = found.shape
        rows, cols = found.rows.numpy(), found.cols.numpy()
        texts = rows // max(s_width, 1)
        for text, (s, t) in enumerate(zip(read_s, read_t, strict=True)):
            expected = getattr(definitions, name)(s, t)
            # a message of numpy's, which counts what differs, takes as long again
            assert np.abs(got[text] - expected).max(initial=0) <= 1e-6
            if aligner.causal:
                mine = texts == text
                pairs = rows[mine] % s_width, cols[mine] % t_width
                assert definitions.leaks(s, t, *pairs) == []
        if aligner.causal:
            check_causal(found, student, teacher)
    return coverage


def check_symmetric(student, teacher):
    """The overlaps of (a, b) are those of (b, a), turned round."""
    student_line, teacher_line = lines(student.spans, teacher.spans)
    there = overlaps(student_line, teacher_line)
    back = overlaps(teacher_line, student_line)
    order = np.lexsort((back.rows, back.cols))
    assert np.array_equal(there.rows, back.cols[order])
    assert np.array_equal(there.cols, back.rows[order])
    assert np.array_equal(there.shared, back.shared[order])
    assert np.array_equal(there.union, back.union[order])


@pytest.mark.slow
def test_some_pairs_align_as_defined_on_every_corpus(sides, excerpts):
    batches = encoded(sides, EVERY, [text[:60] for text in excerpts])
    read = {name: readings(batch) for name, batch in batches.items()}
    for batch in batches.values():
        check_spans(batch)
    for one, two in SOME:
        check_pair(batches[one], batches[two], read[one], read[two])
        check_symmetric(batches[one], batches[two])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_pair_aligns_as_defined_on_every_corpus(sides, excerpts, capsys):
    # Every pair reads a quarter of the texts, every tokenizer meets all of them on
    # either side: the definitions, written to be read, are slow.
    parts = [encoded(sides, EVERY, excerpts[part::4]) for part in range(4)]
    read = [
        {name: readings(batch) for name, batch in batches.items()} for batches in parts
    ]
    for batches in parts:
        for batch in batches.values():
            check_spans(batch)
    coverage = {}
    for (row, one), (column, two) in itertools.product(enumerate(EVERY), repeat=2):
        batches, spans = parts[(row + column) % 4], read[(row + column) % 4]
        coverage[one, two] = check_pair(
            batches[one], batches[two], spans[one], spans[two]
        )
        check_symmetric(batches[one], batches[two])
    with capsys.disabled():
        for aligner in ALIGNERS:
            print(f"\n{aligner}: % of the row's tokens fed by the column's")
            print(" " * 18 + "".join(f"{name[:9]:>10}" for name in EVERY))
            for one in EVERY:
                row = [f"{coverage[one, two][aligner]:10.1%}" for two in EVERY]
                print(f"{one:<18}{''.join(row)}")
    for name in EVERY:
        assert coverage[name, name]["char_iou"] == 1
    assert min(pair["char_iou"] for pair in coverage.values()) > 0.8


def unshared(batch):
    """(B, T) bool: tokens with text that share no character with another."""
    start, end = batch.spans.unbind(-1)
    held = batch.has_text
    met = (start[:, :, None] < end[:, None]) & (start[:, None] < end[:, :, None])
    met &= held[:, :, None] & held[:, None]
    return held & (met.sum(-1) == 1)


def test_a_token_that_shares_no_character_with_its_neighbours_is_its_own_match(
    sides, excerpts
):
    for batch in encoded(sides, EVERY, excerpts).values():
        dense = CharIoUAligner()(batch, batch).dense()
        check_symmetric(batch, batch)
        alone = unshared(batch)
        assert float(alone.sum() / batch.has_text.sum()) > 0.3
        identity = torch.eye(dense.shape[1]).expand_as(dense)
        assert torch.equal(dense[alone], identity[alone])


@pytest.mark.parametrize("aligner", ALIGNERS.values(), ids=ALIGNERS)
def test_vocabularies_that_cut_alike_align_one_to_one(sides, excerpts, aligner):
    # opt numbers gpt2's pieces anew and puts </s> in front; it owns <unk> and </s>
    texts = [text for text in excerpts if "<unk>" not in text]
    batches = encoded(sides, ["bytes", "bytes-renumbered"], texts)
    dense = aligner(batches["bytes"], batches["bytes-renumbered"]).dense()[..., 1:]
    alone = unshared(batches["bytes"])
    assert int(alone.sum()) > 500
    identity = torch.eye(dense.shape[1]).expand_as(dense)
    assert torch.equal(dense[alone], identity[alone])


# --- text that hypothesis makes up

fragments = st.one_of(
    st.sampled_from([text for text in ODD if text]),
    st.sampled_from([" ", "  ", "\n", "a", "The", " the", "深", "，", "é", "\u0301"]),
    st.text(CHARACTERS, max_size=6),
)
made_up = (
    st.lists(fragments, max_size=12)
    .map("".join)
    .map(
        # a lone surrogate is no text: no tokenizer takes it
        lambda text: text.encode("utf-8", "ignore").decode()
    )
)


def check_made_up(sides, names, pairs, texts):
    batches = encoded(sides, names, texts)
    read = {name: readings(batch) for name, batch in batches.items()}
    for name, batch in batches.items():
        check_spans(batch)
        by_offsets = encode_batch(sides[name][0], texts)
        assert torch.equal(by_offsets.ids, batch.ids)
        assert torch.equal(by_offsets.spans, batch.spans)
    for one, two in pairs:
        check_pair(batches[one], batches[two], read[one], read[two])
        check_symmetric(batches[one], batches[two])


def examples(everyday):
    """So many under the CI profile, many times as many in a search."""
    searching = not settings().derandomize
    return settings(
        max_examples=everyday * (25 if searching else 1),
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.function_scoped_fixture,
        ],
    )


@given(st.lists(made_up, min_size=1, max_size=2))
@examples(12)
def test_made_up_text_aligns_as_defined(sides, texts):
    check_made_up(sides, EVERY, SOME, texts)


@pytest.mark.slow
@given(st.lists(made_up, min_size=4, max_size=6))
@examples(3)
def test_made_up_text_aligns_as_defined_for_every_pair(sides, texts):
    check_made_up(sides, EVERY, PAIRS, texts)


LONG = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyzé深", k=92_000))


def check_long(sides, names, pairs):
    assert len(LONG.encode()) > 100_000 and " " not in LONG
    batches = encoded(sides, names, [LONG])
    for batch in batches.values():
        check_spans(batch)
    for one, two in pairs:
        for aligner in ALIGNERS.values():
            found = aligner(batches[one], batches[two])
            sums = torch.zeros(batches[one].ids.shape[1])
            sums.index_add_(0, found.rows, found.weights)
            covered = found.covered[0]
            torch.testing.assert_close(sums, covered.float(), atol=1e-5, rtol=0)
            if aligner.causal:
                check_causal(found, batches[one], batches[two])


def test_a_hundred_kilobytes_without_a_blank_align_in_three_families(sides):
    names = ["bytes", "metaspace-legacy", "words"]
    check_long(sides, names, list(itertools.permutations(names, 2)))


@pytest.mark.slow
def test_a_hundred_kilobytes_without_a_blank_align(sides):
    # The library's longest match takes time with the cube of a word's length.
    names = [name for name in EVERY if name != "bytes-longest"]
    check_long(sides, names, [pair for pair in SOME if set(pair) <= set(names)])
