"""Models in other formats become folders that every reader of the platform takes."""

import json
import pickle
import shutil

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.errors import InputError, MissingFileError
from teacher import load_model
from teacher.conversion.convert import convert
from teacher.packages.manifest import read_manifest

pytestmark = pytest.mark.edges

TEXT = "def add(a, b):  return a + 12"


def logits(model, tokenizer):
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        return model(ids).logits


def same_model(folder, source):
    """Whether a converted folder reads and predicts as its source does."""
    new, old = load_model(folder), load_model(source)
    assert new.tokenizer(TEXT).input_ids == old.tokenizer(TEXT).input_ids
    before = logits(old.model, old.tokenizer)
    torch.testing.assert_close(logits(new.model, new.tokenizer), before)


@pytest.fixture
def pickled(tiny_zoo, tmp_path):
    """A folder as it was saved before there were safetensors."""
    folder = tmp_path / "old"
    shutil.copytree(tiny_zoo["gpt2-prose"], folder)
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(tiny_zoo["gpt2-prose"])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_become_safetensors(pickled, tiny_zoo, tmp_path):
    for beside in ("training_args.bin", "optimizer.pt", "rng_state_0.pth"):
        (pickled / beside).write_bytes(pickle.dumps(tmp_path))  # a trainer's own
    manifest = convert(pickled, tmp_path / "new")
    same_model(tmp_path / "new", tiny_zoo["gpt2-prose"])
    assert manifest.conversion == "from pytorch_model.bin"
    assert read_manifest(tmp_path / "new") == manifest


def test_a_pickle_that_would_run_code_is_refused_unrun(pickled, tmp_path):
    class Runs:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Runs()}))
    with pytest.raises(InputError, match="would run code"):
        convert(pickled, tmp_path / "new")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()


def test_what_is_no_state_dict_or_lacks_weights_is_refused(pickled, tmp_path):
    file = pickled / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save({"step": 3}, file)
    with pytest.raises(InputError, match="is no state dict"):
        convert(pickled, tmp_path / "new")
    state.pop("transformer.h.0.attn.c_attn.weight")
    torch.save(state, file)
    with pytest.raises(InputError, match="lacks 1 weights"):
        convert(pickled, tmp_path / "new")
    file.rename(pickled / "training_args.bin")
    with pytest.raises(
        MissingFileError, match=r"weights \(training_args\.bin are no weights\)"
    ):
        convert(pickled, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_adapter_is_merged_into_its_base(tiny_zoo, tmp_path):
    peft = pytest.importorskip("peft")
    base = tiny_zoo["student"]
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path / "lora")
    manifest = convert(tmp_path / "lora", tmp_path / "new", base=base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        expected = logits(adapted.eval(), tokenizer)
    new = load_model(tmp_path / "new")
    torch.testing.assert_close(logits(new.model, new.tokenizer), expected)
    assert not torch.allclose(logits(load_model(base).model, tokenizer), expected)
    assert manifest.conversion == f"adapter merged into {base}"


def test_an_adapters_own_tokenizer_and_chat_template_go_before_its_bases(
    tiny_zoo, tmp_path
):
    peft = pytest.importorskip("peft")
    base, lora = tiny_zoo["student"], tmp_path / "lora"
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(model, settings).save_pretrained(lora)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ 'as tuned' }}"
    tokenizer.save_pretrained(lora)
    convert(lora, tmp_path / "new", base=base)
    assert load_model(tmp_path / "new").tokenizer.chat_template == "{{ 'as tuned' }}"
    (lora / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json is damaged"):
        convert(lora, tmp_path / "newer", base=base)


def test_a_tokenizer_that_is_given_leaves_nothing_of_the_models_own(pickled, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(pickled)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    tokenizer.chat_template = "{{ 'of another' }}"
    tokenizer.save_pretrained(pickled)
    convert(pickled, tmp_path / "new", tokenizer=tmp_path / "plain")
    assert load_model(tmp_path / "new").tokenizer.chat_template is None


def write_gguf(path, folder, split, blank_first=None):
    """The zoo's little Llama as llama.cpp's converter writes it, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config, backend = model.config, tokenizer.backend_tokenizer
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2" if blank_first is None else "llama")
    if blank_first is not None:
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_add_space_prefix(blank_first)
    if split:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    merges = json.loads(backend.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = {"q_proj": config.num_attention_heads}.get(
            name.split(".")[-2], config.num_key_value_heads
        )
        if (
            "q_proj" in name or "k_proj" in name
        ):  # llama.cpp turns neighbours, not halves
            rows = weight.shape[0] // heads // 2
            weight = (
                weight.view(heads, 2, rows, -1).transpose(1, 2).reshape(weight.shape)
            )
        stem, ending = name.rsplit(".", 1)
        tensor = np.ascontiguousarray(weight.numpy())
        writer.add_tensor(f"{names.get_name(stem)}.{ending}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_converted_with_the_splitting_that_it_names(tiny_zoo, tmp_path):
    write_gguf(tmp_path / "toy.gguf", tiny_zoo["student"], "smollm")
    manifest = convert(tmp_path / "toy.gguf", tmp_path / "new")
    new, old = load_model(tmp_path / "new"), load_model(tiny_zoo["student"])
    ids = old.tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        got, expected = new.model(ids).logits, old.model(ids).logits
    torch.testing.assert_close(got, expected)
    assert "Digits" in str(new.tokenizer.backend_tokenizer.pre_tokenizer)
    assert manifest.source_sha256


def test_a_gguf_file_that_names_no_known_splitting_wants_a_tokenizer(
    tiny_zoo, tmp_path
):
    file, student = tmp_path / "toy.gguf", tiny_zoo["student"]
    write_gguf(file, student, "")
    with pytest.raises(InputError, match="does not say how its tokenizer splits"):
        convert(file, tmp_path / "new")
    write_gguf(file, student, "viking")
    with pytest.raises(InputError, match=r"toy\.gguf cannot be .*'viking'"):
        convert(file, tmp_path / "new")
    convert(file, tmp_path / "new", tokenizer=student)
    same_model(tmp_path / "new", student)


@pytest.mark.parametrize(("blank_first", "word"), [(True, "▁def"), (False, "def")])
def test_a_gguf_file_says_whether_texts_get_a_blank_in_front(
    tiny_zoo, tmp_path, blank_first, word
):
    write_gguf(tmp_path / "toy.gguf", tiny_zoo["student"], "", blank_first)
    convert(tmp_path / "toy.gguf", tmp_path / "new")
    backend = load_model(tmp_path / "new").tokenizer.backend_tokenizer
    assert backend.pre_tokenizer.pre_tokenize_str("def") == [(word, (0, 3))]


def test_what_cannot_be_converted_is_refused_before_any_work(tmp_path):
    with pytest.raises(MissingFileError, match=r"is not there; give a \.gguf file"):
        convert(tmp_path / "none", tmp_path / "new")
    with pytest.raises(InputError, match="is there already"):
        convert(tmp_path / "none", tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"PK..")
    with pytest.raises(InputError, match="no GGUF file"):
        convert(tmp_path / "x.gguf", tmp_path / "new")
    with pytest.raises(MissingFileError, match=r"the folder .* is not there"):
        convert(tmp_path / "x.gguf", tmp_path / "a/new")
    assert not (tmp_path / "new").exists()
