import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "scripts" / "tokenizer_table.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("tokenizer_table", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(script, shared_data):
    return script.tables(shared_data)


def test_the_page_is_up_to_date(script, measured):
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.page_with(measured), (
        "run: python scripts/tokenizer_table.py --write"
    )


def test_rows_say_what_is_known_of_their_tokenizers(measured):
    rows = [
        line.split(" | ") for line in measured.splitlines() if line.startswith("| `")
    ]
    kinds, shares, pairs = rows[:12], rows[12:24], rows[24:]
    assert len(pairs) == 12 and all(len(row) == 13 for row in pairs)
    by_name = {row[0].strip("| `"): row[1:] for row in kinds}
    assert by_name["gpt2"] == ["BPE", "byte lengths", "nothing |"]
    assert by_name["t5-small"][:2] == ["Unigram", "offsets"]
    assert "unknown" in by_name["t5-small"][2]
    assert by_name["qwen2.5"][1] == "byte lengths; offsets where NFC changes the text"
    (own,) = (row[1:] for row in shares if row[0] == "| `gpt2`")
    assert {cell.strip(" |") for cell in own} == {"100 / 0"}
    (t5,) = (row[1:] for row in shares if row[0] == "| `t5-small`")
    assert float(t5[-1].strip(" |").split(" / ")[1]) > 50  # Chinese
    covered = {row[0].strip("| `"): row[1:] for row in pairs}
    for place, row in enumerate(covered.values()):
        assert row[place].startswith("100 / ")  # by itself
    assert covered["bert-base-uncased"][1].strip(" |") == "100 / 100"  # itself
    assert float(covered["gpt2"][4].split(" / ")[1]) < 70  # bytes of characters


def test_a_missing_corpus_is_named(script, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file ntrex/eng\.txt in"):
        script.excerpt(tmp_path, script.CORPORA["news"])
