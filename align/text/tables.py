"""Rows of parquet, Arrow and Feather files, read by the columns and bytes needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.errors import InputError, MissingPackageError
from align.text.files import refuse_pointer
from align.text.records import Row, form_of

_BATCH_BYTES = 1 << 23
_BATCH_ROWS = 1024
"""At once; where values repeat, a row's share of the file says little of its size."""


def rows_of_parquet(
    path: Path, text_field: str, weight_field: str | None = None
) -> Iterator[Row]:
    """The rows from 0, of which the columns of their form alone are read.

    Args:
        path: of the file.
        text_field: see :func:`align.text.records.text_of`.
        weight_field: a column that is read, too, where it is there.

    Raises:
        InputError: damaged, or no usable column.
        MissingPackageError: pyarrow is not installed.
    """
    return _numbered(path, _parquet(path, text_field, weight_field))


def rows_of_arrow(
    path: Path, text_field: str, weight_field: str | None = None
) -> Iterator[Row]:
    """The rows of an Arrow stream, or of an Arrow or Feather file.

    Arguments and errors are those of :func:`rows_of_parquet`.
    """
    return _numbered(path, _arrow(path, text_field, weight_field))


def _numbered(path: Path, batches: Iterator[Any]) -> Iterator[Row]:
    lib = _pyarrow(path).lib
    refuse_pointer(path)
    number = 0
    try:
        for batch in batches:
            batch.validate(full=True)  # what does not hold together ends the process
            for record in _records(batch):
                yield number, f"{path}, row {number}", record
                number += 1
    except (lib.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read ({_first_line(error)}); copy it again, or write "
            "it again as .parquet"
        ) from error


def _records(batch: Any) -> Iterator[dict[str, Any]]:
    """Row by row: a value that repeats is held once, however often it stands."""
    names, columns = batch.schema.names, batch.columns
    for row in range(batch.num_rows):
        values = (column[row].as_py() for column in columns)
        yield dict(zip(names, values, strict=True))


def _parquet(path: Path, text_field: str, weight_field: str | None) -> Iterator[Any]:
    from pyarrow import parquet, types

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
    columns = _columns(schema.names, text_field, weight_field, path)
    texts = [name for name in columns if types.is_string(schema.field(name).type)]
    # Without buffers whole column chunks would be held, a row group's each; a value
    # that a file holds once and names in every row would be held as often
    with parquet.ParquetFile(
        path, pre_buffer=False, buffer_size=1 << 20, read_dictionary=texts
    ) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(
                batch_size=_rows_at_once(file.metadata.row_group(group), columns),
                row_groups=[group],
                columns=columns,
            )


def _rows_at_once(group: Any, columns: list[str]) -> int:
    """How many rows of a row group make a batch, by what these columns weigh."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns)
    )
    return _fitting(size, group.num_rows)


def _fitting(size: int, rows: int) -> int:
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(1, size)))


def _arrow(path: Path, text_field: str, weight_field: str | None) -> Iterator[Any]:
    from pyarrow import ipc, memory_map

    with memory_map(str(path)) as mapped:
        head = mapped.read(6)
        if head[:4] == b"FEA1":
            raise InputError(
                f"{path} is Feather of version 1, which is read no more; write it "
                "again with pyarrow.feather.write_feather, or as .parquet"
            )
        is_file = head == b"ARROW1"
        opened = ipc.open_file if is_file else ipc.open_stream
        mapped.seek(0)
        with opened(mapped) as header:
            names = header.schema.names
        column_numbers = [
            names.index(name)
            for name in _columns(names, text_field, weight_field, path)
        ]
        mapped.seek(0)
        options = ipc.IpcReadOptions(included_fields=sorted(column_numbers))
        with opened(mapped, options=options) as source:
            batches = (
                (source.get_batch(i) for i in range(source.num_record_batches))
                if is_file
                else source
            )
            for batch in batches:
                batch.validate()
                step = _fitting(batch.nbytes, batch.num_rows)
                for start in range(0, batch.num_rows, step):
                    yield batch.slice(start, step)


def _columns(
    names: list[str], text_field: str, weight_field: str | None, path: Path
) -> list[str]:
    form = form_of(names, text_field, str(path))
    wanted = dict.fromkeys([*form.fields, weight_field])
    return [name for name in wanted if name in names]


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackageError(
            f"reading {path} needs pyarrow; install the extra: pip install "
            "'mtkd[parquet]'"
        ) from error
    return pyarrow


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
