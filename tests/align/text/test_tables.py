"""Tables are read by the columns and bytes that are needed."""

import pytest

from align.errors import InputError
from align.text.documents import read_texts

pytestmark = pytest.mark.edges

pa = pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
from pyarrow import feather, ipc, parquet  # noqa: E402


class Recorded(parquet.ParquetFile):
    """A reader that notes what it is asked for."""

    asked: list[tuple[list[str], int]]

    def iter_batches(self, batch_size, *, row_groups, columns):
        self.asked.append((columns, batch_size))
        yield from super().iter_batches(
            batch_size, row_groups=row_groups, columns=columns
        )


@pytest.fixture
def asked(monkeypatch):
    Recorded.asked = []
    monkeypatch.setattr(parquet, "ParquetFile", Recorded)
    return Recorded.asked


def test_parquet_is_asked_for_the_column_alone_in_batches_of_few_bytes(tmp_path, asked):
    texts = [f"{n} " + "x" * 100_000 for n in range(200)]
    table = pa.table({"text": texts, "picture": [b"y" * 1000] * 200})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=150)
    assert [s.text for s in read_texts(path)] == texts
    assert [columns for columns, _ in asked] == [["text"], ["text"]]
    for _, rows in asked:
        assert 1 <= rows * 100_000 <= 10_000_000


def test_a_column_of_repeated_values_is_not_taken_for_a_small_one(tmp_path, asked):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["x" * 5_000] * 5_000}), path)
    assert len(read_texts(path)) == 5_000
    assert all(rows <= 1024 for _, rows in asked)


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]


@pytest.mark.parametrize(
    ("columns", "needed", "text"),
    [
        ({"messages": TALK, "tools": None}, ["messages", "tools"], "user: Hi"),
        ({"prompt": "1+1=", "completion": "2"}, ["prompt", "completion"], "1+1=2"),
        (
            {"instruction": "Add.", "input": "1, 2", "output": "3"},
            ["instruction", "output", "input"],
            "Add.\n1, 2\n\n3",
        ),
        ({"question": "a?", "answer": "b"}, ["question", "answer"], "a?\nb"),
    ],
)
def test_every_form_names_the_columns_it_needs(tmp_path, asked, columns, needed, text):
    path = tmp_path / "a.parquet"
    rows = [{"id": 1, **columns, "other": [0.5]}] * 2
    parquet.write_table(pa.Table.from_pylist(rows), path)
    assert [s.text.startswith(text) for s in read_texts(path)] == [True, True]
    assert [columns for columns, _ in asked] == [needed]


def arrow_stream(table, path):
    with pa.OSFile(str(path), "wb") as out, ipc.new_stream(out, table.schema) as to:
        to.write_table(table)


def arrow_file(table, path):
    with pa.OSFile(str(path), "wb") as out, ipc.new_file(out, table.schema) as to:
        to.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.arrow", arrow_stream),
        ("a.arrow", arrow_file),
        ("a.arrow", feather.write_feather),
        ("a.feather", feather.write_feather),
    ],
    ids=["stream", "file", "feather as arrow", "feather"],
)
def test_arrow_is_read_by_column_in_slices_of_few_bytes(
    tmp_path, monkeypatch, name, write
):
    texts = [f"{n} " + "x" * 50_000 for n in range(500)]
    write(pa.table({"id": range(500), "text": texts}), tmp_path / name)
    taken = []
    from align.text import tables

    fitting = tables._fitting

    def noted(size, rows):
        taken.append((size, rows, fitting(size, rows)))
        return taken[-1][2]

    monkeypatch.setattr(tables, "_fitting", noted)
    assert [s.text for s in read_texts(tmp_path / name)] == texts
    assert all(rows * 50_000 < 10_000_000 for _, _, rows in taken)
    size = sum(size for size, _, _ in taken)
    assert size < 500 * 50_100  # the numbers beside the texts are not among them


def test_damaged_and_older_tables_say_what_to_do(tmp_path):
    path = tmp_path / "a.arrow"
    path.write_bytes(b"FEA1" + b"\x00" * 90)
    with pytest.raises(InputError, match=r"Feather of version 1.*write_feather"):
        read_texts(path)
    path.write_bytes(b"not arrow at all")
    with pytest.raises(InputError, match=r"a\.arrow cannot be read .*copy it again"):
        read_texts(path)
    whole = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a" * 1000]}), whole)
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet cannot be read .*copy it again"):
        read_texts(whole)


def test_a_table_without_a_usable_column_lists_what_it_has(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"body": ["a"], "id": [1]}), path)
    with pytest.raises(
        InputError, match=r"no field 'text' among \['body', 'id'\]; set"
    ):
        read_texts(path)
    assert [s.text for s in read_texts(path, text_field="body")] == ["a"]
