import pytest

from align.tokens.spelling import token_bytes
from teacher.adapt.cut import cut_vocabulary
from teacher.loading.tokenizer import largest_id
from tests.small_tokenizers import small


def cut(new, old, new_rows=None, old_rows=None):
    return cut_vocabulary(
        new, old, new_rows or largest_id(new) + 1, old_rows or largest_id(old) + 1
    )


def spelled(cuts, new, old):
    """What each new piece spells, and what the old ones in its place do."""
    pieces, theirs = token_bytes(new), token_bytes(old)
    return [
        (piece, [theirs[id_] for id_ in cuts.old[number]])
        for number, piece in enumerate(pieces)
        if piece is not None
    ]


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("bytes-chatml", "bytes"),
        ("bytes-headers", "metaspace-legacy"),
        ("bytes-nfc", "metaspace-no-blank"),
        ("metaspace", "bytes-blank-first"),
        ("metaspace-legacy", "bytes-longest"),
        ("unigram-end", "bytes-chatml"),
    ],
)
def test_old_pieces_spell_what_the_new_one_does_byte_by_byte(new, old):
    new, old = small(new), small(old)
    pairs = spelled(cut(new, old), new, old)
    assert all(b"".join(theirs) == piece for piece, theirs in pairs)
    known = set(token_bytes(old))
    assert all(len(theirs) == 1 for piece, theirs in pairs if piece in known)


@pytest.mark.parametrize("name", ["bytes-chatml", "metaspace-legacy", "unigram-left"])
def test_the_own_vocabulary_is_itself_unused_rows_too(name):
    tokenizer = small(name)
    rows = largest_id(tokenizer) + 9
    cuts = cut(tokenizer, tokenizer, rows, rows)
    assert cuts.old == tuple((id_,) for id_ in range(rows))
    assert (cuts.cut, cuts.unmatched) == (0, 0)


def test_bytes_that_are_no_character_go_by_bytes_and_whole_characters_by_pieces():
    new, old = small("bytes"), small("metaspace-legacy")
    pieces, ids = token_bytes(new), old.get_vocab()
    half = next(n for n, piece in enumerate(pieces) if piece == "，".encode()[:2])
    assert cut(new, old).old[half] == (ids["<0xEF>"], ids["<0xBC>"])
    letter = next(n for n, piece in enumerate(pieces) if piece == b"q")
    assert cut(new, old).old[letter] == (ids["q"],)


def test_special_tokens_go_by_role_then_by_name_and_may_have_nobody():
    new, old = small("bytes-chatml"), small("metaspace-legacy")
    cuts, ids, theirs = cut(new, old), new.get_vocab(), old.get_vocab()
    assert cuts.old[ids["<|im_end|>"]] == (theirs["</s>"],)  # what ends a text
    assert cuts.old[ids["<|im_start|>"]] == ()
    assert cuts.unmatched == 2  # and padding, which the old one has not
    named = small("metaspace-legacy")
    named.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    again = cut(new, named).old[ids["<|im_start|>"]]
    assert again == (named.get_vocab()["<|im_start|>"],)


def test_a_role_that_the_old_one_lacks_is_taken_by_its_other_end():
    new, old = small("metaspace-legacy"), small("bytes-chatml")  # has no bos
    ids, theirs = new.get_vocab(), old.get_vocab()
    assert cut(new, old).old[ids["<s>"]] == (theirs["<|im_end|>"],)


def test_what_the_old_one_cannot_write_is_read_as_it_reads_it():
    new, old = small("bytes"), small("unigram-end")
    cuts, pieces = cut(new, old), token_bytes(new)
    percent = next(n for n, piece in enumerate(pieces) if piece == b"%")
    assert cuts.old[percent] == (old.unk_token_id,)
    assert cuts.kept + cuts.cut + cuts.unmatched == len(new)


def test_ids_that_nobody_gives_take_the_rows_of_such_ids_in_order():
    new, old = small("bytes"), small("bytes-chatml")
    first, last = largest_id(new) + 1, largest_id(old) + 1
    cuts = cut(new, old, first + 3, last + 2)
    assert cuts.old[first:] == ((last,), (last + 1,), ())
