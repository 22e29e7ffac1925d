import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from teacher.capture.kv_capture import KVCapture
from teacher.output_head import linear_head, vocabulary_digest


def test_a_head_gives_the_models_own_logits_from_its_last_hidden_state():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    capture = KVCapture(GPT2LMHeadModel(config).eval())
    head = linear_head(capture)
    assert head.weight is capture.model.get_output_embeddings().weight
    ids = torch.randint(0, 40, (2, 9))
    seen = capture(ids, ids >= 0, logits=True, hidden=True)
    torch.testing.assert_close(seen.hidden @ head.weight.T, seen.logits)


def test_capped_logits_are_refused():
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.05,
    )
    with pytest.raises(ValueError, match="capped, scaled or masked after the head"):
        linear_head(KVCapture(Gemma2ForCausalLM(config).eval()))


def test_an_encoder_predicts_no_next_token():
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with pytest.raises(ValueError, match="predicts no next token"):
        linear_head(KVCapture(BertForMaskedLM(config).eval()))


def test_vocabularies_are_equal_where_every_token_has_the_same_id():
    class Speaks:
        def __init__(self, **ids: int) -> None:
            self.get_vocab = lambda: ids

    assert vocabulary_digest(Speaks(a=0, b=1)) == vocabulary_digest(Speaks(b=1, a=0))
    assert vocabulary_digest(Speaks(a=0, b=1)) != vocabulary_digest(Speaks(a=1, b=0))
