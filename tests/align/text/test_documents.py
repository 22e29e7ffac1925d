import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.text.conversation import Conversation
from align.text.documents import TextSample, chunk_samples, read_texts
from align.text.plain_text import PACK_CHARS
from tests.small_tokenizers import sections


def test_plain_text_comes_in_whole_paragraphs_unmodified(tmp_path):
    paragraphs = [f"Paragraph {i}. " + "word " * 100 for i in range(12)]
    path = tmp_path / "wiki.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    samples = read_texts(path)
    assert len(samples) == 3 and {s.domain for s in samples} == {"wiki"}
    assert "\n\n".join(s.text for s in samples) == path.read_text(encoding="utf-8")
    assert [s.id for s in samples] == ["wiki.txt:0", "wiki.txt:1", "wiki.txt:2"]
    assert all(PACK_CHARS <= len(s.text) < PACK_CHARS + 600 for s in samples[:2])


def test_crlf_news_keep_every_character(tmp_path):
    path = tmp_path / "zho-CN.txt"
    path.write_bytes(40 * (sections()["Chinese"] + "\r\n").encode())
    joined = "".join(s.text for s in read_texts(path, domain="news"))
    assert joined == path.read_bytes().decode()
    assert "\r\n" in joined


def test_of_verse_only_the_blank_lines_between_documents_are_lost(tmp_path):
    path = tmp_path / "plays.txt"
    raw = "\n\n".join([sections()["plays"]] * 20)
    path.write_text(raw, encoding="utf-8")
    found = read_texts(path)
    assert len(found) > 20 and all(s.text in raw for s in found)
    assert "".join(s.text.strip() for s in found).replace("\n\n", "") == raw.replace(
        "\n\n", ""
    )


def test_unknown_suffixes_are_plain_text(tmp_path):
    path = tmp_path / "val.de"
    path.write_text(sections()["German"], encoding="utf-8")
    assert read_texts(path)[0].text.startswith("Der Zug hielt an einem")


def test_json_lines_of_mathematics(tmp_path):
    path = tmp_path / "test.jsonl"
    pairs = [("What is 2 + 3?", "2 + 3 = 5\n#### 5"), ("深度？", "12 层")] * 200
    rows = [json.dumps({"question": q, "answer": a}) for q, a in pairs]
    path.write_text("\n".join(rows), encoding="utf-8")
    samples = read_texts(path, domain="math")
    assert len(samples) == 400
    expected = "What is 2 + 3?\n2 + 3 = 5\n#### 5"
    assert samples[0] == TextSample(expected, "math", "test.jsonl:1")


RECORDS = [
    ({"text": "深度"}, "深度"),
    ({"question": "a?", "answer": "b"}, "a?\nb"),
    ({"prompt": "1+1=", "completion": "2"}, "1+1=2"),
    (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Yes?"},
            ]
        },
        "user: Hi\n\nassistant: Yes?",
    ),
]


def test_every_record_form_is_read(tmp_path):
    path = tmp_path / "mixed.jsonl"
    lines = [json.dumps(record) for record, _ in RECORDS]
    path.write_text("\r\n".join(lines) + "\n\n", encoding="utf-8")
    assert [s.text for s in read_texts(path)] == [text for _, text in RECORDS]


def test_turns_are_kept_where_templates_are_to_read_them(tmp_path):
    path = tmp_path / "mixed.jsonl"
    lines = [json.dumps(record) for record, _ in RECORDS]
    path.write_text("\n".join(lines), encoding="utf-8")
    samples = read_texts(path, chats="template")
    kinds = [isinstance(s.text, Conversation) for s in samples]
    assert kinds == [False, False, True, True]
    assert samples[3].text == "HiYes?"
    assert [m["role"] for m in samples[2].text.messages] == ["user", "assistant"]
    assert chunk_samples(samples, 3)[-1] is samples[3]  # a conversation stays whole


def test_a_named_field_is_read_and_blank_documents_are_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"body": "a", "text": "b"}\n{"body": " "}\n', encoding="utf-8")
    assert [s.text for s in read_texts(path, text_field="body")] == ["a"]


def test_a_folder_is_read_in_order_with_unique_ids(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text(folder, encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    samples = read_texts(tmp_path)
    assert [s.text for s in samples] == ["a", "b"]
    assert [s.id for s in samples] == ["a/same.txt:0", "b/same.txt:0"]


def test_a_byte_order_mark_is_dropped(tmp_path):
    path = tmp_path / "bom.txt"
    path.write_bytes("\ufeffdeep".encode())
    assert read_texts(path)[0].text == "deep"


def test_parquet_rows_are_read_where_pyarrow_is_installed(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b"]}), path)
    assert [s.text for s in read_texts(path)] == ["a", "b"]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"pip install 'mtkd\[parquet\]'"):
        read_texts(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok\nfine\n\xff\xfe", r"byte 8 \(line 3\) is 0xff, which is not"),
        ("a.txt", b" \n\n ", "holds no text"),
        ("a.jsonl", b"", "holds no text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2: not JSON \(.* column"),
        ("a.jsonl", b"[1]", "line 1: a list; give an object, .*on_bad_row=skip"),
        ("a.jsonl", b'{"txt": "a"}', r"no field 'text' among \['txt'\]"),
        (
            "a.jsonl",
            b'{"text": 3}',
            "field 'text' is the number 3; give a string, or set",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b \\ud83d c"}',
            r"line 2: '\\ud83d' after 2 characters is half of a surrogate pair",
        ),
        ("a.jsonl", b'{"messages": ["a"]}', "give objects with role and content"),
    ],
)
def test_bad_files_say_where_and_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_texts(tmp_path / name)


# --- chunks

text = st.text(st.sampled_from("ab .。\n\r\u0301\u200d深😀👩"), max_size=200)


@given(text, st.integers(2, 40))
@settings(max_examples=100, deadline=None)
def test_chunks_joined_give_the_sample_back(body, max_chars):
    marked = "x" + body.replace("\n\n", "\n") + "x"
    chunks = chunk_samples([TextSample(marked, "d", "i")], max_chars)
    assert all(len(c.text) <= max_chars for c in chunks)
    found = 0
    for chunk in chunks:  # blank chunks are left out, the rest is in order
        found = marked.index(chunk.text, found)
        assert not chunk.text.isspace()
        found += len(chunk.text)
    assert sum(len(c.text.strip()) > 0 for c in chunks) == len(chunks)
    missing = len(marked) - sum(len(c.text) for c in chunks)
    assert missing <= sum(char.isspace() for char in marked)


def cuts(body, max_chars):
    return [c.text for c in chunk_samples([TextSample(body, "d", "i")], max_chars)]


def test_cuts_fall_where_they_hurt_least():
    assert cuts("One two.\n\nThree four. Five", 16) == [
        "One two.\n\n",
        "Three four. Five",
    ]
    assert cuts("One two. Three four five", 14) == ["One two.", " Three four", " five"]
    assert cuts("宝玉道：好。黛玉笑了。", 8) == ["宝玉道：好。", "黛玉笑了。"]
    assert cuts("aaaa bbbb cccc", 10) == ["aaaa bbbb", " cccc"]
    assert cuts("abcdefgh", 3) == ["abc", "def", "gh"]
    assert cuts("abc\r\nd", 4) == ["abc", "\r\nd"]


def test_composed_characters_are_not_cut():
    assert cuts("abe\u0301cd", 3) == ["ab", "e\u0301c", "d"]


def test_ids_and_domain_follow_the_chunks():
    chunks = chunk_samples([TextSample("aaaa bbbb", "d", "f:0")], 5)
    assert [(c.id, c.domain) for c in chunks] == [("f:0#0", "d"), ("f:0#1", "d")]
    short = TextSample("aa", "d", "f:1")
    assert chunk_samples([short], 5) == [short]
    with pytest.raises(ValueError, match="max_chars must be >= 2"):
        chunk_samples([short], 1)


def test_an_arrow_file_of_a_datasets_folder_is_read_by_row(tmp_path):
    import pyarrow as pa

    table = pa.table({"prompt": ["one ", "two "], "completion": ["1", "2"]})
    file = tmp_path / "set" / "data-00000-of-00001.arrow"
    file.parent.mkdir()
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, table.schema) as to:
        to.write_table(table)
    assert [s.text for s in read_texts(file.parent)] == ["one 1", "two 2"]
    with pytest.raises(ValueError, match="no field 'words'"):
        read_texts(file, text_field="words")
    file.write_bytes(b"not arrow at all")
    with pytest.raises(ValueError, match="cannot be read"):
        read_texts(file)
