"""Tokens as a person sees them, by hand."""

import torch

from align.text.conversation import Conversation
from align.tokens.batch import TokenBatch
from align.tokens.pairs import encode_pairs
from experiments.rehearsal.pieces import Piece, Turns, pieces_of, turns_of
from tests.seq2seq import TEXTS, tokenizer


class Spelt:
    """A tokenizer of five ids."""

    words = ("<s>", "he", "llo", "", "\n")

    def decode(self, ids):
        return self.words[ids[0]]

    def convert_ids_to_tokens(self, id_):
        return "▁" if id_ == 3 else self.words[id_]


def batch_of(ids, spans, text):
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    mask[0, -1] = False  # the last one is padding
    return TokenBatch(torch.tensor([ids]), mask, torch.tensor([spans]), (text,))


def test_a_text_is_cut_where_tokens_end_and_its_first_token_is_not_learned():
    spans = [[0, 0], [0, 2], [2, 2], [2, 5], [5, 5]]
    batch = batch_of([0, 1, 3, 2, 0], spans, "hello")
    assert pieces_of(Spelt(), batch, 0) == [
        Piece("<s>", True, False),
        Piece("he", False, True),
        Piece("▁", True, True),
        Piece("llo", False, True),
    ]
    assert len(pieces_of(Spelt(), batch, 0, shown=2)) == 3


def test_a_character_that_tokens_share_stands_in_the_first_of_them():
    batch = batch_of([1, 1, 2, 0], [[0, 1], [0, 1], [1, 2], [2, 2]], "é!")
    texts = [piece.text for piece in pieces_of(Spelt(), batch, 0)]
    assert texts == ["é", "", "!"]


def test_what_is_learned_of_each_role_s_turns_is_counted():
    messages = [
        {"role": "user", "content": "he"},
        {"role": "assistant", "content": "llo"},
    ]
    # <s> he \n llo \n: the template's line ends close a turn each
    spans = [[0, 0], [0, 2], [2, 2], [2, 5], [5, 5], [5, 5]]
    batch = batch_of([0, 1, 4, 2, 4, 0], spans, Conversation(messages))
    assert turns_of(batch) == [
        Turns(role="user", turns=1, tokens=1, learned=2),
        Turns(role="assistant", turns=1, tokens=1, learned=2),
    ]
    assert turns_of(batch_of([1, 0], [[0, 2], [2, 2]], "he")) == []


def test_a_target_stands_behind_its_source():
    names = tokenizer()
    batch = encode_pairs(names, TEXTS, names.pad_token_id, learn_end=True)
    pieces = pieces_of(names, batch, 1)
    assert len(pieces) == int(batch.mask[1].sum())
    learned = "".join(p.text for p in pieces if p.learned and not p.mark)
    assert learned == TEXTS[1].completion.replace(" ", "")
