import pytest
from tokenizers import Tokenizer

from teacher.tokenizer import load_tokenizer
from teacher.zoo.recipes import TokenizerRecipe
from teacher.zoo.tokenizers import train_tokenizer

CODE = "def f(x):\n    return x + 12345  # it's\n\n\nclass A:\n\tpass\r\n"


def test_a_tokenizer_splits_as_its_file_says_whatever_the_models_type(
    make_model, tmp_path
):
    """transformers gives every model of type qwen2 the splitting of Qwen's own."""
    recipe = TokenizerRecipe(kind="byte-bpe", vocab_size=400, style="none")
    trained = train_tokenizer(recipe, [CODE * 20])
    make_model("qwen2").save_pretrained(tmp_path)
    trained.save_pretrained(tmp_path)

    loaded = load_tokenizer("it", str(tmp_path), {})

    ids = trained(CODE, add_special_tokens=False)["input_ids"]
    assert loaded(CODE, add_special_tokens=False)["input_ids"] == ids
    assert loaded.decode(ids) == CODE
    assert loaded.bos_token == trained.bos_token


def test_real_tokenizers_read_as_their_files(shared_data):
    folders = sorted((shared_data / "tokenizers").iterdir())
    found = 0
    for folder in folders:
        file = folder / "tokenizer.json"
        if not file.is_file():
            continue
        loaded, raw = load_tokenizer(folder.name, str(folder), {}), Tokenizer
        plain = raw.from_file(str(file)).encode(CODE, add_special_tokens=False)
        assert loaded(CODE, add_special_tokens=False)["input_ids"] == plain.ids, folder
        found += 1
    if not found:
        pytest.skip("no tokenizer.json among the shared tokenizers")
