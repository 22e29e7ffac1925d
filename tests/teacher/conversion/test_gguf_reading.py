"""The head of a GGUF file is read once, as it would be each time."""

import gguf
import numpy as np
import pytest

from teacher.conversion.convert import convert
from teacher.conversion.gguf_reading import read_once
from tests.teacher.conversion.test_convert import write_gguf


@pytest.fixture
def read(monkeypatch):
    """Counts how often a head is read."""
    build, times = gguf.GGUFReader._build_fields, []

    def noted(self, *asked):
        times.append(1)
        return build(self, *asked)

    monkeypatch.setattr(gguf.GGUFReader, "_build_fields", noted)
    return times


def test_a_conversion_reads_it_once_and_leaves_the_library_as_it_was(
    read, tiny_zoo, tmp_path
):
    whole = gguf.GGUFReader
    write_gguf(tmp_path / "toy.gguf", tiny_zoo["student"], "smollm")
    convert(tmp_path / "toy.gguf", tmp_path / "new")
    assert len(read) == 1
    assert gguf.GGUFReader is whole


def written(path, words):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.5, -1.0])
    writer.add_tensor("x", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_it_holds_is_what_the_library_reads_and_another_file_is_another(tmp_path):
    file = written(tmp_path / "a", ["深", "b"])
    other = written(tmp_path / "b", ["c", "d"])
    whole = gguf.GGUFReader(file)
    with read_once(file):
        once = gguf.GGUFReader(str(file))
        assert gguf.GGUFReader(file) is once
        words = gguf.GGUFReader(other).get_field("tokenizer.ggml.tokens").contents()
        assert words == ["c", "d"]
        assert gguf.GGUFReader(file, "c") is not once  # to be written to
    assert once.fields.keys() == whole.fields.keys()
    for name, field in whole.fields.items():
        assert once.fields[name].contents() == field.contents(), name
    (tensor,), (expected,) = once.tensors, whole.tensors
    assert tensor.name == expected.name and (tensor.data == expected.data).all()
