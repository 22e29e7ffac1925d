"""The next byte from tokens, against every way of writing a text in them."""

import itertools
import math

import pytest
import torch

from align.errors import InputError
from teacher.loading.models import load_model
from teacher.next_byte import read_bytes, read_bytes_of

SPELLED = [None, b"a", b"b", b"ab", b"ba", b" ", b"\n", b"1", b"."]
BEGIN, A, B, AB, BA = range(5)
OTHER = {" ": 5, "\n": 6, "1": 7, ".": 8}


def encode(text):
    """Greedy from the left: ``ab`` before ``a``, ``ba`` never before ``b``; characters
    that are asked for what follows are tokens of their own."""
    ids, place = [], 0
    text, other = text.rstrip(" \n1."), text
    tail = [OTHER[c] for c in other[len(text) :]]
    while place < len(text):
        two = text[place : place + 2]
        ids.append(AB if two == "ab" else A if text[place] == "a" else B)
        place += 2 if two == "ab" else 1
    return ids + tail


def log_rows(ids):
    """A model that writes nothing its tokenizer would not: no ``b`` after ``a``, and
    ``ba`` nowhere."""
    rows = []
    for last in ids:
        p = torch.tensor([0.0, 3.0, 2.0, 4.0, *[0.0] * 5])
        p[A] += last == AB
        p[B] *= last != A
        rows.append((p / p.sum()).double().log())
    return torch.stack(rows)


def chance(text):
    """Of all token sequences that begin with these characters, by writing them out."""
    total = 0.0
    for count in range(1, len(text) + 1):
        for ids in itertools.product((A, B, AB), repeat=count):
            pieces = [SPELLED[i].decode() for i in ids]
            shorter, whole = "".join(pieces[:-1]), "".join(pieces)
            if len(shorter) < len(text) and whole.startswith(text):
                rows = log_rows([BEGIN, *ids[:-1]])
                total += float(rows[range(count), list(ids)].sum().exp())
    return total


def test_bytes_are_foretold_as_all_ways_of_writing_the_text_say():
    text = "aabbab"
    read = read_bytes(
        text,
        spelled=SPELLED,
        encode=encode,
        score=lambda every: [log_rows(ids) for ids in every],
        begin=BEGIN,
    )
    for n in range(len(text)):
        before = chance(text[:n]) if n else 1.0
        for letter in "ab":
            expected = chance(text[:n] + letter) / before
            assert math.exp(read.log_probs[n, ord(letter)]) == pytest.approx(expected)
    assert read.log_probs.exp().sum(1).tolist() == pytest.approx([1.0] * len(text))
    # one way of writing the whole text and its end: the tokens' own bits, exactly
    assert read.byte_bits + read.end_bits == pytest.approx(read.token_bits)
    assert read.apart == pytest.approx(0, abs=1e-6) and read.characters == 6


def test_a_tokenizer_that_changes_its_text_is_refused():
    with pytest.raises(InputError, match="spell b'b' where"):
        read_bytes(
            "a", spelled=SPELLED, encode=lambda text: [B], score=list, begin=BEGIN
        )
    with pytest.raises(InputError, match="empty"):
        read_bytes("", spelled=SPELLED, encode=encode, score=list, begin=BEGIN)


def test_a_cut_that_depends_on_what_follows_is_no_surprise():
    """``aa`` is one token, unless a ``.`` follows: then it is two, and likely so."""
    spelled = [None, b"a", b".", b"aa", b" ", b"\n", b"1"]

    def cut(text):
        ids = []
        for place, c in enumerate(text):
            if c == "a" and ids[-1:] == [1] and text[place + 1 : place + 2] != ".":
                ids[-1] = 3
            else:
                ids.append(spelled.index(c.encode()))
        return ids

    assert cut("aa") == [3] and cut("aa.") == [1, 1, 2]

    def rows(ids):
        p = torch.tensor([0.0, 0.45, 0.45, 0.1, 0.0, 0.0, 0.0], dtype=torch.float64)
        return p.log().expand(len(ids), -1)

    read = read_bytes(
        "aa.",
        spelled=spelled,
        encode=cut,
        score=lambda every: [rows(ids) for ids in every],
        begin=0,
    )
    # "aa" is 0.1 as one token, 0.45² as two, or an "a" and the half of "aa"
    ended, goes_on = 0.1 + 0.45**2, 0.45 * 0.1
    expected = ended * 0.45 / (ended + goes_on)
    assert math.exp(read.log_probs[2, ord(".")]) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["gpt2-prose", "qwen-code"])
def test_a_real_tokenizer_is_read_within_characters_too(tiny_zoo, name):
    loaded = load_model(str(tiny_zoo[name]), role="teacher", dtype=torch.float32)
    read = read_bytes_of(loaded.model, loaded.tokenizer, "def né(x): 饕")
    assert read.log_probs.shape == (len("def né(x): 饕".encode()), 256)
    assert read.log_probs.exp().sum(1).tolist() == pytest.approx(
        [1.0] * len(read.log_probs)
    )
    # a sum over several ways of writing is at least the one that is written
    assert read.byte_bits + read.end_bits <= read.token_bits * 1.02
