import json

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from align.errors import MissingFileError
from teacher.loading.tokenizer import largest_id, load_tokenizer
from teacher.zoo.recipes import TokenizerRecipe
from teacher.zoo.tokenizers import train_tokenizer
from tests.everyday import some_daily
from tests.small_tokenizers import KINDS, described, outside, real, sections, small

CODE = "def f(x):\n    return x + 12345  # it's\n\n\nclass A:\n\tpass\r\n"
PROBES = [
    *(blank + text for blank in ("", " ", "  ", "    ", "\t", "\n", "\r\n", "\u3000")
      for text in ("x", "the user", "12345", "深度", "😀", ".")),
    *(mark + text for mark in ("<s>", "</s>", "<|end|>", "<unk>", "<|endoftext|>")
      for text in ("y", " y", "  y", "\ny", "深", "7")),
    "WE'LL naïve Ünïcode ﬁ １２ cafe\u0301 … end ",
    CODE,
    *(part[:300] for part in sections().values()),
    "",
]  # fmt: skip
CLASSES = [
    ("metaspace-legacy", "LlamaTokenizer", "llama"),
    ("metaspace", "LlamaTokenizer", "llama"),
    ("metaspace", "LlamaTokenizerFast", "phi3"),
    ("metaspace-legacy", "CodeLlamaTokenizer", "llama"),
    ("metaspace-legacy", "GemmaTokenizer", "gemma"),
    ("metaspace-no-blank", "GemmaTokenizer", "gemma"),
    ("metaspace-legacy", "XLMRobertaTokenizer", "xlm-roberta"),
    ("bytes", "Qwen2Tokenizer", "qwen2"),
    ("bytes-removed", "PreTrainedTokenizerFast", "qwen2"),
    ("bytes-headers", "LlamaTokenizer", "llama"),
    ("bytes-split-after", "GPT2Tokenizer", "falcon"),
    ("bytes-blank-first", "RobertaTokenizer", "roberta"),
    ("bytes", "RobertaTokenizer", "roberta"),
    ("unigram-end", "T5Tokenizer", "t5"),
    ("words", "BertTokenizer", "bert"),
]
OTHERWISE = [CLASSES[0], *CLASSES[3:5], CLASSES[7]]
"""Classes that read other ids than these files say."""


def save(folder, kind, **config):
    """A folder of one small tokenizer, some fields of its config changed."""
    small(kind).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def ids(tokenizer, texts, specials=False):
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return [backend.encode(text, add_special_tokens=specials).ids for text in texts]


def the_file(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def load(folder):
    return load_tokenizer("it", str(folder), {"trust_remote_code": False})


@pytest.mark.parametrize(("kind", "class_name", "family"), CLASSES)
def test_ids_are_the_file_s_whatever_class_the_folder_names(
    tmp_path, kind, class_name, family
):
    save(tmp_path, kind, tokenizer_class=class_name)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    for specials in (False, True):
        expected = ids(the_file(tmp_path), PROBES, specials)
        assert ids(load(tmp_path), PROBES, specials) == expected


@pytest.mark.parametrize(("kind", "class_name", "family"), OTHERWISE)
def test_these_classes_read_other_ids_than_their_file(
    tmp_path, kind, class_name, family
):
    """Were it not so, the test above would show nothing."""
    save(tmp_path, kind, tokenizer_class=class_name)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    by_class = ids(AutoTokenizer.from_pretrained(tmp_path), PROBES)
    assert by_class != ids(the_file(tmp_path), PROBES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_the_one_that_was_loaded(tmp_path, kind):
    save(tmp_path / "source", kind)
    loaded = load(tmp_path / "source")
    loaded.save_pretrained(tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        one, other = (
            json.loads((tmp_path / where / name).read_text())
            for where in ("source", "copy")
        )
        for note in ("is_local", "local_files_only"):  # of how it was loaded
            one.pop(note, None), other.pop(note, None)
        assert one == other, name
    assert loaded.chat_template == small(kind).chat_template
    assert loaded.pad_token == small(kind).pad_token  # none is made up
    again = load(tmp_path / "copy").backend_tokenizer
    assert again.to_str() == loaded.backend_tokenizer.to_str()  # stores digest it


def test_added_tokens_are_found_as_the_file_says_not_as_the_config_does(tmp_path):
    token = {"content": "<|end|>", "single_word": False, "lstrip": False}
    token |= {"rstrip": False, "normalized": False, "special": True}
    id_ = small("metaspace").convert_tokens_to_ids("<|end|>")
    save(tmp_path, "metaspace", added_tokens_decoder={str(id_): token})
    texts = ["a<|end|> y", "<|end|>\n\ny"]
    assert ids(load(tmp_path), texts) == ids(the_file(tmp_path), texts)
    assert ids(AutoTokenizer.from_pretrained(tmp_path), texts) != ids(
        the_file(tmp_path), texts
    )


def test_a_tokenizer_splits_as_its_file_says_whatever_the_models_type(
    make_model, tmp_path
):
    """transformers gives every model of type qwen2 the splitting of Qwen's own."""
    recipe = TokenizerRecipe(kind="byte-bpe", vocab_size=400, style="none")
    trained = train_tokenizer(recipe, [CODE * 20])
    make_model("qwen2").save_pretrained(tmp_path)
    trained.save_pretrained(tmp_path)

    loaded = load(tmp_path)

    ids = trained(CODE, add_special_tokens=False)["input_ids"]
    assert loaded(CODE, add_special_tokens=False)["input_ids"] == ids
    assert loaded.decode(ids) == CODE
    assert loaded.bos_token == trained.bos_token


if outside():  # they only widen what holds everywhere

    @pytest.mark.parametrize("name", outside())
    def test_real_tokenizers_read_as_their_files(name):
        assert ids(real(name), PROBES) == ids(described(name), PROBES)


def test_merges_are_never_left_out_by_lot(tmp_path):
    save(tmp_path, "bytes")
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text())
    state["model"]["dropout"] = 0.9
    path.write_text(json.dumps(state))
    assert ids(load(tmp_path), [CODE] * 3) == ids(small("bytes"), [CODE] * 3)


def test_the_largest_id_counts_gaps(tmp_path):
    save(tmp_path, "bytes")
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text())
    state["model"]["vocab"]["far"] = 5000
    path.write_text(json.dumps(state))
    loaded = load(tmp_path)
    assert (len(loaded), largest_id(loaded)) == (901, 5000)
    assert largest_id(small("bytes")) == 899


@pytest.mark.parametrize("damage", ["merges", "vocab", "cut", "other"])
def test_a_damaged_file_is_one_line_that_names_the_folder(tmp_path, damage):
    save(tmp_path, "bytes")
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text())
    if damage == "merges":
        state["model"]["merges"].append(["no", "such"])
    elif damage == "vocab":
        state["model"]["vocab"] = 3
    text = json.dumps(state)
    path.write_text({"cut": text[:-40], "other": "[1, 2]"}.get(damage, text))
    with pytest.raises(ValueError, match=r"model 'it': .*copy it again") as caught:
        load(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and "\n" not in message


@pytest.mark.parametrize(
    "class_name",
    some_daily(
        ["MarianTokenizer", "T5Tokenizer", "NoSuchTokenizer", "CanineTokenizer"],
        lambda name: name != "CanineTokenizer",  # whose import takes a second
    ),
)
def test_a_folder_without_the_file_is_one_line_too(tmp_path, class_name):
    config = {"tokenizer_class": class_name}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian"}))
    with pytest.raises((FileNotFoundError, ValueError), match="model 'it'") as caught:
        load(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message or "slow tokenizer" in message
    assert "\n" not in message


def test_a_name_that_is_neither_a_folder_nor_at_the_hub_is_said_to_be_that(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(MissingFileError) as caught:
        load_tokenizer("nowhere", "nowhere", {})

    said = str(caught.value)
    assert said.startswith("model 'nowhere' was not found: looked for the folder ")
    assert "huggingface.co" not in said
