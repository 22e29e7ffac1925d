import pytest

from teacher.zoo.objectives import Vocabulary
from teacher.zoo.recipes import TokenizerRecipe
from teacher.zoo.tokenizers import SENTINELS, train_tokenizer

NAMES = ("gpt2-prose", "qwen-code", "neox-mixed", "bert-mixed", "t5-mixed", "student")
HARD = "def f(x):\n    return 'naïve 深度 🙂'  # two  blanks\n\n\tTab \n"


@pytest.fixture(scope="module")
def tokenizers(tiny_zoo):
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(tiny_zoo[name]) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_tokenizer_is_fast_with_bos_eos_and_pad(tokenizers, name):
    tokenizer = tokenizers[name]
    assert tokenizer.is_fast
    for special in ("bos", "eos", "pad"):
        assert isinstance(getattr(tokenizer, f"{special}_token_id"), int)


@pytest.mark.parametrize("name", ["gpt2-prose", "qwen-code", "neox-mixed", "student"])
def test_causal_tokenizers_give_any_text_back(tokenizers, name):
    tokenizer = tokenizers[name]
    ids = tokenizer(HARD, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == HARD
    assert tokenizer.convert_tokens_to_ids("<unk>") not in ids


@pytest.mark.parametrize("name", NAMES)
def test_spans_cover_the_text_in_order(tokenizers, name):
    encoded = tokenizers[name](HARD, return_offsets_mapping=True)
    spans = [span for span in encoded.offset_mapping if span != (0, 0)]
    assert spans == sorted(spans)
    covered = {i for start, end in spans for i in range(start, end)}
    missing = {HARD[i] for i in set(range(len(HARD))) - covered}
    assert not "".join(missing).strip()


@pytest.mark.parametrize("name", NAMES)
def test_saving_and_loading_keeps_the_ids(tokenizers, name, tmp_path):
    from transformers import AutoTokenizer

    tokenizers[name].save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(HARD).input_ids == tokenizers[name](HARD).input_ids


def test_the_styles_put_their_tokens_around_a_text(tokenizers):
    def ends(name):
        tokenizer = tokenizers[name]
        ids = tokenizer("x = 1").input_ids
        return tokenizer.convert_ids_to_tokens([ids[0], ids[-1]])

    assert ends("bert-mixed") == ["[CLS]", "[SEP]"]
    assert ends("t5-mixed")[1] == "</s>"
    assert ends("neox-mixed")[0] == ends("student")[0] == "<s>"
    assert "<|endoftext|>" not in ends("gpt2-prose")


def test_t5_has_its_sentinels(tokenizers):
    assert len(Vocabulary.of(tokenizers["t5-mixed"]).sentinels) == SENTINELS


def test_an_unknown_kind_is_named_with_the_valid_ones():
    recipe = TokenizerRecipe(kind="morse", vocab_size=300, style="bos")
    with pytest.raises(ValueError, match=r"'morse'.*byte-bpe, unigram, wordpiece"):
        train_tokenizer(recipe, ["x"])
