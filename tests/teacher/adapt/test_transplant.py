from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from teacher.adapt.transplant import save_transplanted, transplant
from teacher.loading.models import load_model
from teacher.loading.tokenizer import largest_id
from teacher.loading.vocabulary import GivenVocabulary
from teacher.packages.manifest import read_manifest
from tests.small_tokenizers import small

FAMILIES = ("gpt2", "opt", "llama", "qwen2", "qwen3", "gpt_neox", "gemma2", "gemma3")
FAMILIES += ("phi", "phi3", "mistral", "olmo2", "cohere")
TEXT = "An unbelievable misunderstanding, 深度KV 😀 wörld\n"


def given(name, more=0):
    tokenizer = small(name)
    return GivenVocabulary(
        name=name,
        tokenizer=tokenizer,
        rows=largest_id(tokenizer) + 1 + more,
        ends=tokenizer.eos_token_id,
    )


@pytest.fixture
def model(make_model):
    """A small model of a family that has the vocabulary of a small tokenizer."""

    def make(family, tokenizer, more=0, **changes):
        vocabulary = given(tokenizer, more)
        ids = {"pad_token_id": None, "bos_token_id": None}
        return make_model(family, vocab_size=vocabulary.rows, **ids, **changes)

    return make


@torch.no_grad()
def logits(model, ids):
    return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_own_vocabulary_changes_no_logit_and_another_order_orders_logits(
    family, model
):
    old, new = small("bytes"), small("bytes-renumbered")
    reads = model(family, "bytes", more=5)
    ids = old(TEXT, add_special_tokens=False).input_ids[:24]
    before = logits(reads, ids)
    transplant(reads, old, given("bytes", more=5))
    assert torch.equal(logits(reads, ids), before)
    transplant(reads, old, given("bytes-renumbered"))
    there = new(TEXT, add_special_tokens=False).input_ids[:24]
    assert there != ids
    assert new.convert_ids_to_tokens(there) == old.convert_ids_to_tokens(ids)
    pieces = sorted(piece for piece in old.get_vocab() if piece[0] != "<")
    order, was = (tok.convert_tokens_to_ids(pieces) for tok in (new, old))
    after = logits(reads, there)
    torch.testing.assert_close(after[:, order], before[:, was], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_kept_pieces_keep_their_bits_and_heads_stay_tied_or_apart(tied, model):
    old = small("bytes")
    reads = model("llama", "bytes", tie_word_embeddings=tied)
    table = reads.get_input_embeddings().weight.detach().clone()
    head = reads.get_output_embeddings().weight.detach().clone()
    cuts = transplant(reads, old, given("bytes-chatml", more=2))
    embedding, last = reads.get_input_embeddings(), reads.get_output_embeddings()
    assert (last.weight is embedding.weight) is tied
    assert len(embedding.weight) == len(last.weight) == len(cuts.old)
    assert reads.config.vocab_size == last.out_features == len(cuts.old)
    for number, row in enumerate(cuts.old):
        if len(row) == 1:
            assert torch.equal(embedding.weight[number], table[row[0]])
        elif row:
            mean = table[list(row)].mean(0)
            torch.testing.assert_close(embedding.weight[number], mean)
            if not tied:
                mean = head[list(row)].mean(0)
                torch.testing.assert_close(last.weight[number], mean)


def test_a_head_s_bias_goes_along(model):
    reads = model("phi", "bytes")
    bias = reads.lm_head.bias.detach().clone()
    cuts = transplant(reads, small("bytes"), given("bytes-renumbered"))
    kept = [(n, row[0]) for n, row in enumerate(cuts.old) if len(row) == 1]
    assert all(reads.lm_head.bias[n] == bias[was] for n, was in kept)


def test_special_ids_are_the_new_vocabulary_s_and_an_end_is_no_padding(model):
    reads = model("llama", "bytes")
    reads.generation_config.suppress_tokens = [3]
    transplant(reads, small("bytes"), given("bytes-renumbered"))
    new = small("bytes-renumbered")
    for settings in (reads.config, reads.generation_config):
        assert settings.eos_token_id == new.eos_token_id == 2
        assert settings.pad_token_id == new.pad_token_id == 1
    assert reads.generation_config.suppress_tokens is None
    assert reads.get_input_embeddings().padding_idx is None  # it had none
    both = replace(given("bytes-longest"), ends=[0, 1])  # one token ends and pads
    transplant(reads, new, both)
    assert reads.config.pad_token_id is None and reads.config.eos_token_id == [0, 1]


def test_a_padding_row_of_the_embedding_is_the_new_one_s(make_model):
    rows = given("bytes").rows
    reads = make_model("llama", vocab_size=rows, pad_token_id=7)
    assert reads.get_input_embeddings().padding_idx == 7
    transplant(reads, small("bytes"), given("bytes-renumbered"))
    assert reads.get_input_embeddings().padding_idx == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_is_loaded_as_it_was_with_the_new_tokenizer(
    dtype, model, tmp_path
):
    reads = model("gemma3", "bytes").to(dtype)
    reads.save_pretrained(tmp_path / "old")
    small("bytes").save_pretrained(tmp_path / "old")
    origin = {"title": "old", "source": "s", "licence": "L", "redistributable": False}
    manifest = save_transplanted(
        str(tmp_path / "old"),
        given("bytes-chatml"),
        tmp_path / "new",
        origin=origin | {"notices": {"LICENSE.model": "terms"}},
    )
    loaded = load_model(tmp_path / "new")
    transplant(reads, small("bytes"), given("bytes-chatml"))
    ids = small("bytes-chatml")(TEXT).input_ids[:20]
    assert loaded.tokenizer(TEXT).input_ids[:20] == ids
    assert loaded.model.dtype == dtype
    saved, made = loaded.model.state_dict(), reads.state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in made.items())
    assert loaded.tokenizer.model_max_length == 32  # of its positions
    assert read_manifest(tmp_path / "new") == manifest
    assert not manifest.redistributable and "LICENSE.model" in manifest.files


def test_a_folder_with_a_tokenizer_alone_gives_its_vocabulary(tmp_path):
    small("bytes").save_pretrained(tmp_path)
    alone = GivenVocabulary.of(str(tmp_path))
    assert alone.rows == largest_id(small("bytes")) + 1
    assert alone.ends == small("bytes").eos_token_id


def test_a_student_s_rows_beyond_its_tokens_are_kept(model, tmp_path):
    model("llama", "bytes", more=11).save_pretrained(tmp_path)
    small("bytes").save_pretrained(tmp_path)
    vocabulary = GivenVocabulary.of(str(tmp_path))
    assert vocabulary.rows == largest_id(small("bytes")) + 12


def test_what_has_no_plain_vocabulary_is_refused(model, tiny_zoo, tmp_path):
    with pytest.raises(InputError, match="is an encoder; only causal language models"):
        save_transplanted(
            str(tiny_zoo["bert-mixed"]), given("bytes"), tmp_path / "x", origin={}
        )
    reads = model("llama", "bytes")
    reads.lm_head = torch.nn.Linear(32, 7)
    with pytest.raises(InputError, match="no plain embedding and head of one size"):
        transplant(reads, small("bytes"), given("bytes"))
    further = model("llama", "bytes")
    further.model.per_layer = torch.nn.Embedding(given("bytes").rows, 4)
    with pytest.raises(InputError, match=r"table of its vocabulary, model\.per_layer"):
        transplant(further, small("bytes"), given("bytes"))
