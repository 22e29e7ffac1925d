"""Bits per character against transformers' own loss; effective rank by definition."""

import math

import pytest
import torch

from align.kv import KV
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch, encode_batch
from student.evaluate import bits_and_chars, bits_per_char, kv_health, text_bits


def test_bits_are_the_librarys_loss_over_the_characters_that_were_predicted(school):
    model = school.student().eval()
    batch = school.batch(1)
    out = model(input_ids=batch.ids, labels=batch.ids)
    bits, chars = bits_and_chars(out.logits.detach(), batch)
    predicted = batch.ids.shape[1] - 1  # the begin-of-text token is free
    assert float(bits) == pytest.approx(
        float(out.loss.detach()) * predicted / math.log(2), rel=1e-5
    )
    assert int(chars) == int(batch.spans[0, -1, 1])


def spans_of(*spans: tuple[int, int]) -> TokenBatch:
    ids = torch.zeros(1, len(spans), dtype=torch.int64)
    return TokenBatch(ids, ids == 0, torch.tensor([spans]), ("x" * 20,))


@pytest.mark.parametrize(
    ("batch", "bits", "chars"),
    [
        (spans_of((0, 0), (0, 3), (3, 5)), 2, 5),  # begin-of-text holds nothing
        (spans_of((0, 3), (3, 5), (5, 9)), 2, 6),  # the first word is given
        (spans_of((0, 0), (0, 4), (4, 4)), 1, 4),  # end-of-text is not text
        (spans_of((0, 0), (0, 1), (0, 1), (0, 1)), 3, 1),  # three bytes of one 字
        (spans_of((0, 4)), 0, 0),
        (spans_of((0, 0), (0, 0)), 0, 0),
    ],
)
def test_characters_count_when_a_token_after_the_first_holds_them(batch, bits, chars):
    logits = torch.zeros(1, batch.ids.shape[1], 2)  # one bit per token
    found = bits_and_chars(logits, batch)
    assert (float(found[0]), int(found[1])) == (pytest.approx(bits), chars)


def test_padding_costs_nothing(school):
    model = school.student().eval()
    long, short = school.samples[0].text[:150], school.samples[1].text[:40]
    both, alone = school.encode([long, short]), school.encode([short])
    together = bits_and_chars(
        model(input_ids=both.ids, attention_mask=both.mask.long()).logits, both
    )
    by_itself = bits_and_chars(model(input_ids=alone.ids).logits, alone)
    torch.testing.assert_close(together[0][1:], by_itself[0], rtol=1e-5, atol=1e-4)
    assert together[1][1] == by_itself[1][0]


def test_domains_weigh_by_characters_whatever_the_batching(school):
    lesson = school.lesson(None)
    samples = school.samples[:7]
    whole = bits_per_char(lesson.capture, school.encode, samples, batch_size=16)
    small = bits_per_char(lesson.capture, school.encode, samples, batch_size=2)
    assert list(whole) == list(dict.fromkeys(s.domain for s in samples))
    assert small == pytest.approx(whole, rel=1e-5)


def test_every_text_has_its_own_bits_in_the_order_it_was_given(school):
    own = school.teacher("qwen-code")
    samples = school.samples[:5]
    encode = lambda texts: encode_batch(own.tokenizer, texts)  # noqa: E731
    together = text_bits(own.capture, encode, samples, batch_size=3)
    alone = [text_bits(own.capture, encode, [sample])[0] for sample in samples]
    for (bits, chars), (want, length) in zip(together, alone, strict=True):
        assert bits == pytest.approx(want, rel=1e-4) and chars == length > 0


def test_two_threads_measure_what_one_does(school):
    capture, samples = school.lesson(None).capture, school.samples[:7]
    alone = bits_per_char(capture, school.encode, samples, 2)
    assert bits_per_char(capture, school.encode, samples, 2, threads=2) == alone


def test_a_domain_without_a_character_to_predict_is_named(school):
    lesson = school.lesson(None)
    samples = [school.samples[0], TextSample("", "empty", "e0")]
    with pytest.raises(ValueError, match="domain 'empty' has no character"):
        bits_per_char(lesson.capture, school.encode, samples)


def kv_of(k: torch.Tensor) -> KV:
    """Tokens (N, C) as one layer, one sample, one head, with a padded token."""
    padded = torch.cat([k, torch.full((1, k.shape[1]), 1e6)])[None, None, None]
    mask = torch.ones(1, len(k) + 1, dtype=torch.bool)
    mask[0, -1] = False
    return KV(padded, 2 * padded, mask)


def test_effective_rank_is_the_exponent_of_the_singular_values_entropy():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(50, 3)).Q
    basis = basis - basis.mean(0)
    k = basis @ torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    singular = torch.linalg.svd(k.double()).S
    share = [float(s / singular.sum()) for s in singular]
    expected = math.exp(-sum(p * math.log(p) for p in share))
    health = kv_health(kv_of(k))
    assert health.rank_k == pytest.approx(expected, rel=1e-4)
    assert health.rank_v == pytest.approx(health.rank_k, rel=1e-4)


def test_equal_directions_count_fully_and_a_single_one_counts_once():
    equal = torch.cat([torch.eye(4), -torch.eye(4)])
    assert kv_health(kv_of(equal)).rank_k == pytest.approx(4, rel=1e-4)
    line = torch.arange(8.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert kv_health(kv_of(line)).rank_k == pytest.approx(1, rel=1e-3)
    assert kv_health(kv_of(torch.ones(8, 4))).std_k == 0


def test_spread_is_over_tokens_and_grows_with_scale():
    torch.manual_seed(0)
    k = torch.randn(400, 6) + 100
    health = kv_health(kv_of(k))
    expected = k.std(0, correction=0).square().mean().sqrt()
    assert health.std_k == pytest.approx(float(expected), rel=1e-4)
    assert health.std_v == pytest.approx(2 * health.std_k, rel=1e-4)


def test_fewer_tokens_are_spread_over_all_and_wide_samples_give_the_same_rank():
    torch.manual_seed(0)
    k = torch.randn(400, 6)
    k[200:] += 5  # a sample of the first half alone would miss this
    some, every = kv_health(kv_of(k), most=100), kv_health(kv_of(k))
    assert some.std_k == pytest.approx(every.std_k, rel=0.05)
    assert some != every
    assert kv_health(kv_of(k), most=1000) == every
    few = torch.randn(5, 40)
    singular = torch.linalg.svdvals((few - few.mean(0)).double())
    share = singular[:4] / singular.sum()  # centred: one direction less
    expected = torch.special.entr(share).sum().exp()
    assert kv_health(kv_of(few)).rank_k == pytest.approx(float(expected), rel=1e-3)


def test_what_is_not_finite_has_no_spread():
    k = torch.randn(8, 4)
    k[3, 2] = float("inf")
    assert math.isnan(kv_health(kv_of(k)).rank_k)
