import math

import pytest
import torch

from align.text.conversation import Conversation
from align.text.prompted import Prompted
from align.tokens.batch import TokenBatch
from student.evaluate import bits_and_chars
from teacher.own_loss import next_token_nll, teacher_bits_per_char


def test_nll_of_a_token_stands_at_its_own_position():
    # p(token 1) = 3/4 and 1/4 by hand; the last row predicts nothing
    logits = torch.log(torch.tensor([[[0.25, 0.75], [0.75, 0.25], [0.5, 0.5]]]))
    ids, mask = torch.tensor([[0, 1, 1]]), torch.ones(1, 3, dtype=torch.bool)
    expected = torch.tensor([[0.0, -math.log(0.75), -math.log(0.25)]])
    torch.testing.assert_close(next_token_nll(logits, ids, mask), expected)
    mask[0, 2] = False
    assert next_token_nll(logits, ids, mask)[0, 2] == 0


def test_nll_is_the_loss_of_the_library(make_model, batch):
    model = make_model("gpt2")
    ids, mask = batch
    with torch.no_grad():
        labels = ids.masked_fill(~mask, -100)
        out = model(ids, attention_mask=mask.long(), labels=labels)
        got = next_token_nll(out.logits, ids, mask)
    mean = got.sum() / mask[:, 1:].sum()
    torch.testing.assert_close(mean, out.loss)


def test_nll_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"give \(B, T, V\)"):
        next_token_nll(torch.zeros(1, 3, 5), torch.zeros(1, 4), torch.ones(1, 4).bool())


def _uniform_batch(spans, real):
    spans = torch.tensor([spans])
    tokens = spans.shape[1]
    mask = torch.arange(tokens)[None] < real
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    return torch.zeros(1, tokens, 4), TokenBatch(ids, mask, spans, ("abcdef",))


@pytest.mark.parametrize(
    ("spans", "real", "expected"),
    [
        # 2 bits for each of two predicted tokens, over the 4 characters they hold
        ([[0, 2], [2, 5], [5, 6], [6, 6]], 3, 4 / 4),
        # a special token in front: all three text tokens and all characters count
        ([[0, 0], [0, 2], [2, 5], [5, 6]], 4, 6 / 6),
        # an end-of-text token is no text
        ([[0, 2], [2, 5], [5, 6], [6, 6]], 4, 4 / 4),
        # two byte tokens share one character
        ([[0, 0], [0, 1], [0, 1], [1, 1]], 3, 4 / 1),
        # nothing was predicted
        ([[0, 6], [6, 6], [6, 6], [6, 6]], 1, math.inf),
    ],
)
def test_uniform_guesses_cost_two_bits_a_token(spans, real, expected):
    logits, batch = _uniform_batch(spans, real)
    assert teacher_bits_per_char(logits, batch).tolist() == pytest.approx([expected])


def test_of_a_conversation_only_contents_cost_bits():
    turns = [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "de"}]
    # begin, "ab", "c", end of the turn, role, "de", end of the turn
    spans = [[0, 0], [0, 2], [2, 3], [3, 3], [3, 3], [3, 5], [5, 5]]
    ids = torch.tensor([[0, 1, 2, 3, 3, 1, 3]])
    mask = torch.ones(1, 7, dtype=torch.bool)
    batch = TokenBatch(ids, mask, torch.tensor([spans]), (Conversation(turns),))
    # Whatever came before: 3 of 8 for tokens 1 and 2, 1 of 8 for tokens 0 and 3.
    logits = torch.tensor([1 / 8, 3 / 8, 3 / 8, 1 / 8]).log().expand(1, 7, 4)
    bits = -3 * math.log2(3 / 8)  # "ab", "c", "de"; 2 ends and a role cost 3 bits each
    assert teacher_bits_per_char(logits, batch).tolist() == pytest.approx([bits / 5])
    as_text = TokenBatch(ids, mask, torch.tensor([spans]), ("abcde",))
    expected = [(bits + 6) / 5]  # what lies inside a text is its own
    assert teacher_bits_per_char(logits, as_text).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("special", [0, 1])
def test_of_a_pair_the_completion_alone_is_counted(special):
    # 3 characters are given and 3 learned, in two tokens of 2 bits each
    spans = torch.tensor([[[0, 0]] * special + [[0, 2], [2, 3], [3, 5], [5, 6]]] * 2)
    mask = torch.ones(spans.shape[:2], dtype=torch.bool)
    logits, ids = torch.zeros(*mask.shape, 4), torch.zeros_like(spans[..., 0])
    texts = (Prompted("abc", "def"), "abcdef")
    batch = TokenBatch(ids, mask, spans, texts)
    each = teacher_bits_per_char(logits, batch)
    assert each.tolist() == pytest.approx([4 / 3, 8 / 6 if special else 6 / 4])
    bits, chars = bits_and_chars(logits, batch)
    torch.testing.assert_close(each, (bits / chars).float())
    unread = TokenBatch(ids, mask & (spans[..., 1] <= 3), spans, texts)
    assert teacher_bits_per_char(logits, unread)[0] == math.inf
