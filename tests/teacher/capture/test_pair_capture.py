"""Encoder-decoders on rows of pairs, against transformers' own loss and cache."""

import pytest
import torch
from torch.nn import functional

from align.errors import InputError
from align.tokens.answered import two_parts
from align.tokens.batch import encode_batch
from align.tokens.pairs import encode_pairs
from align.views import KEYS_VALUES
from teacher.capture.pair_capture import PairCapture, capture_of, decoder_start
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import LoadedModel
from teacher.output_head import linear_head
from tests.seq2seq import TEXTS, inputs, model, tokenizer

pytestmark = pytest.mark.edges
FAMILIES = ("t5", "t5-deep", "bart", "marian")


@pytest.fixture(scope="module", params=FAMILIES)
def read(request):
    """A capture, its batch, and what transformers' model gives for the same pairs."""
    whole = model(request.param)
    capture = capture_of(whole)
    batch = encode_pairs(tokenizer(), TEXTS, capture.start, learn_end=True)
    with torch.no_grad():
        given = inputs(TEXTS)
        reference = whole(**given)
        start = whole.prepare_decoder_input_ids_from_labels(labels=given["labels"])
        cached = whole(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            decoder_input_ids=start,
            use_cache=True,
        )
    return capture, batch, reference, cached.past_key_values


def test_the_loss_is_transformers_own(read):
    capture, batch, reference, _ = read
    captured = capture(batch.ids, batch.mask, layers=(), logits=True)
    places = batch.predicted[:, 1:]
    loss = functional.cross_entropy(
        captured.logits[:, :-1][places], batch.ids[:, 1:][places]
    )
    torch.testing.assert_close(loss, reference.loss)


def test_what_the_head_is_given_makes_the_logits(read):
    capture, batch, reference, _ = read
    alone = capture(batch.ids, batch.mask, layers=(), hidden=True)
    assert alone.logits is None
    head = linear_head(capture)
    _, target = two_parts(batch.mask)
    for row in range(len(TEXTS)):
        hidden = alone.hidden[row][target[row]][:-1]  # after the end nothing is said
        logits = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
        expected = reference.logits[row][: len(hidden)]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert not alone.hidden[~target].any()


def test_keys_and_values_are_those_of_both_caches(read):
    capture, batch, _, caches = read
    layers = range(capture.num_layers)
    kv = capture(batch.ids, batch.mask).kv
    source, target = two_parts(batch.mask)
    assert torch.equal(kv.mask, batch.mask)
    target[:, :-1] &= target[:, 1:]  # the library's decoder is not given the end
    target[:, -1] = False
    padding = ~batch.mask[None, :, None, :, None]
    for name, ours in (("keys", kv.k), ("values", kv.v)):
        assert not (ours * padding).any()
        for row in range(len(TEXTS)):
            for part, cache in (
                (source[row], caches.cross_attention_cache),
                (target[row], caches.self_attention_cache),
            ):
                held = [getattr(cache.layers[x], name)[row] for x in layers]
                expected = torch.stack(held)[:, :, : int(part.sum())]
                torch.testing.assert_close(ours[:, row][:, :, part], expected)
    last = capture(batch.ids, batch.mask, layers=(capture.num_layers - 1,)).kv
    assert torch.equal(last.k[0], kv.k[-1])


def test_gradients_of_keys_reach_the_stacks_that_make_them():
    whole = model("t5")
    capture = PairCapture(whole)
    batch = encode_pairs(tokenizer(), TEXTS, capture.start, learn_end=True)
    source, target = two_parts(batch.mask)
    for part, stacks in ((source, {"encoder", "decoder"}), (target, {"decoder"})):
        whole.zero_grad()
        kv = capture(batch.ids, batch.mask).kv
        kv.k[0].transpose(1, 2)[part].square().sum().backward()
        touched = {
            name.split(".")[0]
            for name, p in whole.named_parameters()
            if p.grad is not None and p.grad.any() and name.split(".")[0] != "shared"
        }
        assert touched == stacks


def test_what_an_encoder_decoder_has_not_is_refused_with_the_reason():
    capture = PairCapture(model("t5"))
    batch = encode_pairs(tokenizer(), TEXTS, capture.start)
    plain = encode_batch(tokenizer(), list(TEXTS))
    with pytest.raises(InputError, match="a row holds one text"):
        capture(plain.ids, plain.mask)
    rows = torch.zeros(len(TEXTS), 1, dtype=torch.int64)
    with pytest.raises(InputError, match="there is no one attention"):
        capture(batch.ids, batch.mask, attention_rows=rows)
    with pytest.raises(InputError, match="holds states of the source in its encoder"):
        capture(batch.ids, batch.mask, states=("hidden",))
    assert capture.predicts and not capture.causal


def test_a_decoder_that_is_not_given_start_and_target_is_refused():
    whole = model("t5")
    whole.config.decoder_start_token_id = None
    with pytest.raises(InputError, match="no decoder_start_token_id"):
        decoder_start(whole)
    whole = model("bart")
    whole.prepare_decoder_input_ids_from_labels = lambda labels: labels.roll(1, 1)
    with pytest.raises(InputError, match="and then the target but for its last token"):
        PairCapture(whole)


def test_what_teaches_beside_another_kind_of_student_gives_no_keys():
    loaded = LoadedModel(model("bart"), tokenizer(), "encoder-decoder", "m")
    teacher = LiveTeacher("m", loaded, PairCapture(loaded.model), beside_pairs=True)
    assert KEYS_VALUES not in teacher.lacks
    assert not teacher.learned_positions  # two of them begin in one row
    of_a_peer = LiveTeacher("m", loaded, teacher.capture)
    assert "reads both in one" in of_a_peer.lacks[KEYS_VALUES]
