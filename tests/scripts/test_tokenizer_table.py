import pytest

from tests.small_tokenizers import SHARED, outside, real, sections, small


@pytest.fixture(scope="module")
def data(script, tmp_path_factory):
    """A folder as the script wants it, of small tokenizers and own texts."""
    folder = tmp_path_factory.mktemp("data")
    kinds = {"gpt2": "bytes", "qwen2.5": "bytes-chatml"}
    kinds |= {"t5-small": "unigram-end", "bert-base-uncased": "words-lower"}
    for name, kind in kinds.items():
        small(kind).save_pretrained(folder / "tokenizers" / name)
    own = sections()
    own |= {"wiki": own["news"], "captions": own["plays"], "zh-wiki": own["novel"]}
    for name, where in script.CORPORA.items():
        file = folder / "corpora" / where.replace("*", "x")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(own[name], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def measured(script, data):
    return script.tables(data)


if outside():

    def test_the_page_is_up_to_date(script, monkeypatch):
        loads = "teacher.loading.tokenizer.load_tokenizer"
        monkeypatch.setattr(loads, lambda name, source, hub: real(name))
        page = script.PAGE.read_text(encoding="utf-8")
        assert page == script.page_with(script.tables(SHARED)), (
            "run: python scripts/tokenizer_table.py FOLDER --write"
        )


def test_rows_say_what_is_known_of_their_tokenizers(measured):
    rows = [
        line.split(" | ") for line in measured.splitlines() if line.startswith("| `")
    ]
    kinds, shares, pairs = rows[:4], rows[4:8], rows[8:]
    assert len(pairs) == 4 and all(len(row) == 5 for row in pairs)
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
    assert covered["bert-base-uncased"][0].strip(" |") == "100 / 100"  # itself
    assert float(covered["gpt2"][1].split(" / ")[1]) < 90  # bytes of characters


def test_the_folder_is_asked_for(script, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MTKD_DATA", raising=False)
    with pytest.raises(SystemExit):
        script.main([])
    assert "FOLDER" in capsys.readouterr().err
    assert script.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"no {tmp_path}/tokenizers/gpt2/tokenizer.json; give a folder" in said


def test_a_missing_corpus_is_named(script, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file ntrex/eng\.txt in"):
        script.excerpt(tmp_path, script.CORPORA["news"])
