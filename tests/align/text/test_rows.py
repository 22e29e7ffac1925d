"""Rows of JSON, CSV and tables are read by row, or refused with file and row."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import InputError
from align.text import json_rows
from align.text.csv_rows import rows_of_table
from align.text.documents import chunk_samples, read_texts
from align.text.json_rows import rows_of_json

TEXTS = [f"say {n}: " + '\\"{[]}, 深\n' * n for n in range(30)]


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{"text": text} for text in TEXTS]),
        json.dumps([{"text": text} for text in TEXTS], indent=2, ensure_ascii=False),
        "\n".join(json.dumps({"text": text}) for text in TEXTS),
        "\r\n".join(json.dumps({"text": t}, indent=1) for t in TEXTS) + "\r\n",
    ],
    ids=["array", "pretty array", "lines", "pretty objects"],
)
def test_json_is_an_array_or_objects_one_after_the_other(
    written, monkeypatch, block, content
):
    path = written("a.json", content)
    pieces = (content[at : at + block] for at in range(0, len(content), block))
    monkeypatch.setattr(json_rows, "text_blocks", lambda _: pieces)
    assert [record["text"] for _, _, record in rows_of_json(path)] == TEXTS


def test_the_work_on_a_row_of_many_blocks_follows_its_size(written, monkeypatch):
    content = json.dumps([{"text": "deep " * 200_000}, {"text": "b"}])
    pieces = [content[at : at + 1000] for at in range(0, len(content), 1000)]
    monkeypatch.setattr(json_rows, "text_blocks", lambda _: iter(pieces))
    read = []
    decode = json.JSONDecoder.raw_decode

    def counted(self, text, at):
        read.append(len(text) - at)
        return decode(self, text, at)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", counted)
    assert len(list(rows_of_json(written("a.json", content)))) == 2
    assert sum(read) < 4 * len(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"},\n {"text": "b"}', "line 2: not JSON (the array does not end"),
        ('[{"text": "a"}\n {"text": "b"}]', "line 2: not JSON (Expecting ',' delim"),
        ('[{"text": "a"},\n]', "line 2: not JSON (Expecting value, near"),
        ('[{"text": "a"}]\n[]', "line 2: not JSON (text follows the array's end"),
        ('{"text": "a"}\n{"text: 1}', "line 2: not JSON (Unterminated string"),
        ('{"text": "a"}\n{text: 1}', "line 2: not JSON (Expecting property name"),
        ('{"text": "a",\n "b": nul}', "line 2: not JSON (Expecting value"),
        ('[{"text": "a"},\n\n 3]', "row 1 (line 3): the number 3; give an object"),
        ('[{"text": "a"},\n {"txt": 3}]', "row 1 (line 2): no field 'text' among"),
        ("[]", "holds no text"),
        ("Once upon a time", "line 1: not JSON (Expecting value, near 'Once upon"),
    ],
)
def test_json_that_does_not_parse_says_line_and_what(written, content, message):
    path = written("a.json", content)
    with pytest.raises(InputError) as refused:
        read_texts(path)
    assert str(path) in str(refused.value) and message in str(refused.value)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1" * 5000, "line 2.*: a number has too many digits"),
        ("[" * 3000 + "]" * 3000, "line 2.*: lists and objects lie too deep"),
        ('1, "text": "c"', "line 2.*: 'text' is named twice in one object"),
        ('[{"k": 1, "v": 2, "k": 1}]', "line 2.*: 'k' is named twice in one object"),
    ],
    ids=["digits", "depth", "twice", "twice-inside"],
)
def test_json_that_python_does_not_read_names_the_line(written, name, value, message):
    path = written(name, f'{{"text": "a"}}\n{{"text": "b", "x": {value}}}\n')
    with pytest.raises(InputError, match=rf"{name}, .*{message}"):
        read_texts(path)


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonlines"])
def test_other_names_of_json_lines_are_read(written, name):
    path = written(name, '{"text": "a"}\n\n{"text": "b"}')
    assert [(s.text, s.id) for s in read_texts(path)] == [
        ("a", f"{name}:1"),
        ("b", f"{name}:3"),
    ]


# --- CSV


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_values_keep_quotes_marks_and_line_ends(tmp_path, name, mark, end):
    path = tmp_path / name
    texts = ['say "a", b\tc', "two\r\nlines\n\n", "深", "x" * 200_000, "last"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=mark, lineterminator=end)
        writer.writerows([["id", "text"], *enumerate(texts)])
    assert [s.text for s in read_texts(path)] == texts


@given(st.lists(st.text('a\r\n,"', max_size=6), max_size=8), st.integers(1, 5))
@settings(max_examples=100)
def test_rows_are_those_of_the_file_in_any_blocks(tmp_path_factory, texts, block):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([["text"], *([text] for text in texts)])
    content = path.read_bytes().decode()
    pieces = [content[at : at + block] for at in range(0, len(content), block)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("align.text.csv_rows.text_blocks", lambda _: iter(pieces))
        assert [row["text"] for _, _, row in rows_of_table(path, ",")] == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text\n"a"\n"b\nc\n', "line 3: unexpected end of data"),
        ('text\n"a" b\n', "line 2: ',' expected after '\"'"),
        (
            "id,text\n1,a\n2,b,c\n",
            "line 3: 3 values for 2 fields; put values that hold",
        ),
        ("id,text\n1\n", "line 2: 1 values for 2 fields; write all of them, em"),
        ("text,text\na,b\n", "line 1: field 'text' is named twice"),
        ("id;text\n1;a\n", "line 1: no ',' in 'id;text', but ';'"),
        ("a,b\n1,2\n", "line 2: no field 'text' among ['a', 'b']"),
        ("text\n", "holds no text"),
        ("", "holds no text"),
    ],
)
def test_tables_that_do_not_hold_together_say_where(written, content, message):
    with pytest.raises(InputError) as refused:
        read_texts(written("a.csv", content))
    assert message in str(refused.value)


def test_instructions_in_csv_are_read_by_their_fields(written):
    content = "instruction,input,output\nAdd.,1 and 2,3\nSing.,,La\n"
    texts = [s.text for s in read_texts(written("a.csv", content))]
    assert texts == ["Add.\n1 and 2\n\n3", "Sing.\n\nLa"]


def test_a_row_says_what_its_text_counts(tmp_path):
    path = tmp_path / "beams.jsonl"
    rows = [{"text": "a b", "weight": 0.75}, {"text": "c d", "weight": None}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = read_texts(path, weight_field="weight")
    assert [sample.weight for sample in read] == [0.75, 1.0]
    assert [sample.weight for sample in read_texts(path)] == [1.0, 1.0]
    (pieces,) = [chunk_samples(read[:1], 2)]
    assert [piece.weight for piece in pieces] == [0.75, 0.75]


@pytest.mark.parametrize("value", ["80 kg", -1, True, "nan", [1]])
def test_what_a_text_counts_is_a_number_from_nought(tmp_path, value):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"text": "a b", "mass": value}), encoding="utf-8")
    with pytest.raises(InputError, match=r"bad.jsonl, line 1: mass is .*weight_field"):
        read_texts(path, weight_field="mass")
