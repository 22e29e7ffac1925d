import logging

import pytest
import torch

from align.tokens.batch import encode_batch
from teacher import KVStore, TeacherKVExtractor, load_kvs
from teacher.loading.models import LoadedModel

TEXTS = ["the cat sat on the mat", "", "a", "the dog ran and ran and ran", "mat"]


def _tokenizer(special):
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "[UNK]", "the", "cat", "sat", "on", "mat", "a", "dog", "ran", "and"]
    raw = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {w: i for i, w in enumerate(words)}, unk_token="[UNK]"
        )
    )
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if special:
        raw.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", pad_token="<s>", unk_token="[UNK]"
    )


@pytest.fixture
def loaded(make_model):
    def load(name="gpt2", special=False):
        kind = "encoder" if name == "bert" else "decoder"
        return LoadedModel(make_model(name), _tokenizer(special), kind, name)

    return load


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_batches_give_what_each_text_gives_alone(loaded, name):
    extractor = TeacherKVExtractor(loaded(name), batch_size=2, device="cpu")
    got = extractor.extract_kvs(TEXTS)
    assert [kv.num_tokens for kv in got] == [6, 0, 1, 7, 1]
    for text, kv in zip(TEXTS, got, strict=True):
        assert kv.mask.all()
        assert kv.k.shape[:3] == (2, 1, extractor.capture.num_kv_heads)
        if not text:
            continue
        batch = encode_batch(extractor.loaded.tokenizer, [text])
        with torch.no_grad():
            alone = extractor.capture(batch.ids, batch.mask).kv
        torch.testing.assert_close(kv.k, alone.k, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(kv.v, alone.v, atol=1e-5, rtol=1e-4)


def test_an_empty_text_keeps_the_special_tokens(loaded):
    extractor = TeacherKVExtractor(loaded(special=True), device="cpu")
    assert [kv.num_tokens for kv in extractor.extract_kvs(["", "a cat"])] == [1, 3]
    assert extractor.extract_kvs([]) == []
    plain = TeacherKVExtractor(loaded(), device="cpu")
    assert [kv.num_tokens for kv in plain.extract_kvs(["", ""])] == [0, 0]


def test_only_asked_layers_are_kept(loaded):
    model = loaded("llama")
    every = TeacherKVExtractor(model, device="cpu").extract_kvs(TEXTS[:1])[0]
    one = TeacherKVExtractor(model, layers=[1], device="cpu").extract_kvs(TEXTS[:1])[0]
    assert one.k.equal(every.k[1:])


def test_long_texts_are_cut_with_a_warning(loaded, caplog):
    extractor = TeacherKVExtractor(loaded("gpt2"), device="cpu")
    assert extractor.max_length == 32
    with caplog.at_level(logging.WARNING):
        (kv,) = extractor.extract_kvs(["cat " * 40])
    assert kv.num_tokens == 32
    assert "1 of 1 texts were cut to 32 tokens" in caplog.text
    with pytest.raises(
        ValueError, match=r"max_length=33 for 'gpt2'; valid are 1\.\.32"
    ):
        TeacherKVExtractor(loaded("gpt2"), max_length=33, device="cpu")


def test_saved_kvs_come_back_with_their_provenance(loaded, tmp_path):
    extractor = TeacherKVExtractor(loaded("llama"), device="cpu", layers=[1])
    kvs = extractor.extract_kvs(TEXTS)
    extractor.save_kvs(kvs, tmp_path / "kv", texts=TEXTS)
    fingerprint = KVStore(tmp_path / "kv").plan.fingerprint
    assert fingerprint["model"] == "llama"
    assert fingerprint["layers"] == [1]
    for want, got in zip(kvs, load_kvs(tmp_path / "kv"), strict=True):
        assert got.k.equal(want.k)


def test_a_folder_name_is_enough(loaded, tmp_path):
    model = loaded("gpt2")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    extractor = TeacherKVExtractor(str(tmp_path), batch_size=4, device="cpu")
    (want,) = TeacherKVExtractor(model, device="cpu").extract_kvs(["a cat"])
    (got,) = extractor.extract_kvs(["a cat"])
    torch.testing.assert_close(got.k, want.k)


def test_infinite_keys_are_refused(loaded):
    model = loaded("gpt2")
    model.model.transformer.wte.weight.data[3] = float("inf")  # "cat"
    extractor = TeacherKVExtractor(model, device="cpu")
    extractor.extract_kvs(["the dog"])
    with pytest.raises(
        ValueError, match="not finite, first in layer 0, on the text 'the cat'"
    ):
        extractor.extract_kvs(["the dog", "the cat"])


def test_one_string_is_not_a_list_of_letters(loaded):
    with pytest.raises(TypeError, match="give a list"):
        TeacherKVExtractor(loaded(), device="cpu").extract_kvs("abc")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_are_a_problem_of_their_text(loaded, value):
    """Keys and values of it are finite: what makes logits of them is not."""
    model = loaded()
    with torch.no_grad():
        model.model.get_output_embeddings().weight.data[8] = value  # no text has it
    extractor = TeacherKVExtractor(model, device="cpu")
    first, *_ = extractor.extract(TEXTS[:1], top_k=4)
    assert first.problem == "outputs that are not finite" and first.named is None
    assert extractor.extract(TEXTS[:1])[0].problem is None
