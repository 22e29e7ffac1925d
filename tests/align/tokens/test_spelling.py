import pytest

from align.tokens.spelling import token_bytes
from tests.small_tokenizers import outside

TEXT = "An unbelievable misunderstanding, 深度KV 😀 wörld\n"


@pytest.mark.parametrize(
    "name",
    [
        *("bytes-chatml", "bytes", "metaspace-legacy", "bytes-longest"),
        *outside("qwen2.5", "gpt2", "llama2", "rwkv-world"),
    ],
)
def test_the_bytes_of_tokens_spell_the_text(name, load):
    tokenizer = load(name)
    pieces = token_bytes(tokenizer)
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    spelled = b"".join(pieces[id_] for id_ in ids)
    assert spelled.removeprefix(b" ") == TEXT.encode()
    assert pieces[tokenizer.eos_token_id] is None


def test_a_vocabulary_that_spells_no_blanks_is_refused(load):
    with pytest.raises(ValueError, match="'WordPiece' does not spell blanks"):
        token_bytes(load("words-lower"))
    with pytest.raises(ValueError, match="str is not a fast one"):
        token_bytes("bytes")
