import pytest
import torch

from align.errors import InputError
from align.tokens.byte_prefixes import BytePrefixes


def test_tokens_are_added_up_by_the_byte_after_a_beginning():
    spelled = [b"the", None, b"th", b"t", b"to", b"x", b"t\xff", b"\xff\xff", b""]
    weights = torch.tensor([0.1, 9.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 9.0])
    vocabulary = BytePrefixes(spelled)
    assert vocabulary.longest == 3
    for start in (b"", b"t", b"th", b"\xff", b"t\xff", b"q", b"the"):
        expected = torch.zeros(256, dtype=torch.float64)
        for text, weight in zip(spelled, weights.double(), strict=True):
            if text and text.startswith(start) and len(text) > len(start):
                expected[text[len(start)]] += weight
        torch.testing.assert_close(vocabulary.after(weights, start), expected)


def test_a_vocabulary_that_spells_nothing_is_refused():
    with pytest.raises(InputError, match="no token"):
        BytePrefixes([None, b""])
