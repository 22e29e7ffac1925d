import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from teacher.loading.models import load_model

pytestmark = pytest.mark.edges


@pytest.fixture(scope="session")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": 0, "[UNK]": 1, "a": 2, "b": 3}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", unk_token="[UNK]"
    )


@pytest.fixture
def saved(make_model, tokenizer, tmp_path):
    def save(name, **changes):
        model = make_model(name, **changes)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name, model

    return save


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gpt2", "decoder"), ("bert", "encoder"), ("t5", "encoder-decoder")],
)
def test_a_folder_gives_the_model_its_kind_and_tokenizer(saved, name, kind):
    path, model = saved(name)
    got = load_model(path)
    assert (got.kind, got.name) == (kind, str(path))
    assert type(got.model) is type(model)
    loaded = got.model.state_dict()
    for key, tensor in model.state_dict().items():
        assert loaded[key].equal(tensor), key
    assert got.tokenizer("a b")["input_ids"] == [2, 3]
    assert got.tokenizer.pad_token is None  # as there was none: it is not made up


def test_a_teacher_is_frozen_and_a_student_learns(saved):
    path, _ = saved("llama")
    teacher, student = load_model(path), load_model(path, role="student")
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert student.model.training
    assert all(p.requires_grad for p in student.model.parameters())


def test_dtype_follows_the_checkpoint_for_teachers_only(
    make_model, tokenizer, tmp_path
):
    make_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path).model.dtype == torch.bfloat16
    assert load_model(tmp_path, role="student").model.dtype == torch.float32
    assert load_model(tmp_path, dtype="float16").model.dtype == torch.float16
    with pytest.raises(ValueError, match=r"dtype='int8'; valid are float32"):
        load_model(tmp_path, dtype="int8")


def test_an_encoder_without_its_head_loads_without_logits(
    make_model, tokenizer, tmp_path
):
    from teacher.capture.kv_capture import KVCapture

    make_model("bert").bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    got = load_model(tmp_path)
    assert got.kind == "encoder"
    assert not KVCapture(got.model).has_logits


def test_the_encoder_half_of_t5_loads_alone(make_model, tokenizer, tmp_path):
    from transformers import T5EncoderModel

    whole = make_model("t5")
    half = T5EncoderModel(whole.config)
    half.encoder.load_state_dict(whole.encoder.state_dict())
    half.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    got = load_model(tmp_path)
    assert (got.kind, type(got.model).__name__) == ("encoder", "T5EncoderModel")


def test_zoo_names_go_through_the_resolver(saved):
    path, _ = saved("gpt2")
    got = load_model(
        "zoo:tiny", resolve=lambda name: path.parent / {"tiny": "gpt2"}[name]
    )
    assert got.name == "zoo:tiny"
    with pytest.raises(ValueError, match="no-such-model"):
        load_model("zoo:no-such-model")  # by default the built zoo is asked


def test_a_missing_model_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        load_model("nobody/no-such-model")
    text = str(caught.value)
    for part in (
        str(tmp_path / "nobody" / "no-such-model"),
        "cache",
        "offline (HF_HUB_OFFLINE",
        "hf download nobody/no-such-model",
    ):
        assert part in text
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_model("./absent")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_model(tmp_path)


def test_a_damaged_file_is_named(saved):
    path, _ = saved("gpt2")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"model\.safetensors \(1,000 bytes\) is damaged"
    ):
        load_model(path)


def test_missing_weights_are_not_replaced_by_random_ones(saved):
    path, _ = saved("llama")
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.self_attn.k_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights.*layers.1.self_attn.k_proj"):
        load_model(path)


def test_weights_of_another_shape_are_refused(saved):
    path, _ = saved("llama")
    config = json.loads((path / "config.json").read_text())
    wide, inner = config["hidden_size"], config["intermediate_size"]
    config["intermediate_size"] = 50
    (path / "config.json").write_text(json.dumps(config))
    told = (
        r"^model '\S+': weights in \S+ do not fit its config\.json: "
        r"model\.layers\.0\.mlp\.down_proj\.weight has "
        rf"shape \[{wide}, {inner}\], and config\.json asks for \[{wide}, 50\] "
        "and 5 more"
    )
    with pytest.raises(ValueError, match=told):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "setting", "layers", "first"),
    [
        ("gpt2", "n_layer", 2, "transformer.h.1.attn.c_attn.weight"),
        ("llama", "num_hidden_layers", 2, "model.layers.1.input_layernorm.weight"),
        ("bert", "num_hidden_layers", 2, "bert.encoder.layer.1.attention.output"),
        ("t5", "num_decoder_layers", 3, "decoder.block.1.layer.0.SelfAttention.k"),
    ],
)
def test_layers_that_the_config_leaves_out_are_refused(
    saved, name, setting, layers, first
):
    path, _ = saved(name)
    config = json.loads((path / "config.json").read_text())
    assert config[setting] == layers
    (path / "config.json").write_text(json.dumps(config | {setting: 1}))
    told = rf"leaves out, such as \['{first}.* 1 by config.json and {layers} by its wei"
    with pytest.raises(ValueError, match=told):
        load_model(path)


def test_a_layer_of_another_form_behind_the_last_is_passed_over(saved):
    path, _ = saved("llama")
    weights = load_file(path / "model.safetensors")
    last = {k: w for k, w in weights.items() if k.startswith("model.layers.1.")}
    more = {k.replace(".1.", ".2.", 1): w.clone() for k, w in last.items()}
    file, form = path / "model.safetensors", {"format": "pt"}
    save_file(weights | more, file, metadata=form)
    with pytest.raises(ValueError, match=r"2 by config\.json and 3 by its weights"):
        load_model(path)
    ahead = {"model.layers.2.eh_proj.weight": torch.ones(2, 2)}  # several tokens ahead
    save_file(weights | more | ahead, file, metadata=form)
    assert load_model(path).model.config.num_hidden_layers == 2


def test_pickled_weights_are_not_read(saved):
    path, model = saved("gpt2")
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"only pytorch_model\.bin"):
        load_model(path)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_ids_beyond_the_embedding_are_refused(saved, tokenizer, role):
    path, _ = saved("gpt2", vocab_size=3)
    said = "knows 4 tokens, with ids up to 3, but its embedding has 3 rows"
    with pytest.raises(ValueError, match=said):
        load_model(path, role=role)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_gap_in_the_ids_counts(saved, role):
    path, _ = saved("gpt2", vocab_size=6)
    file = path / "tokenizer.json"
    state = json.loads(file.read_text())
    state["model"]["vocab"]["far"] = 5  # the sixth row, of five tokens
    file.write_text(json.dumps(state))
    assert load_model(path, role=role).tokenizer("far")["input_ids"] == [5]
    state["model"]["vocab"]["far"] = 6
    file.write_text(json.dumps(state))
    said = "knows 5 tokens, with ids up to 6, but its embedding has 6 rows"
    with pytest.raises(ValueError, match=said):
        load_model(path, role=role)


def test_a_missing_tokenizer_is_named(saved):
    path, _ = saved("gpt2")
    for file in path.glob("*token*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no usable tokenizer"):
        load_model(path)


def test_a_missing_tokenizer_is_told_in_our_words_where_transformers_lists_none(saved):
    path, _ = saved("llama")
    config = json.loads((path / "tokenizer_config.json").read_text())
    for file in path.glob("*token*"):
        file.unlink()
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    told = (
        rf"in {path}: there is no tokenizer\.json, nor another file to make one of; co"
    )
    with pytest.raises(FileNotFoundError, match=told):
        load_model(path)
