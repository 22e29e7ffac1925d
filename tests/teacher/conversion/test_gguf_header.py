import struct

import pytest

from teacher.conversion.gguf_header import check_gguf

START = b"GGUF" + struct.pack("<I", 3)
KEY = struct.pack("<Q", 1) + b"k"


def array(kind: int, count: int) -> bytes:
    return struct.pack("<IIQ", 9, kind, count)


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        (START + struct.pack("<QQ", 1 << 60, 0), "tensors in the 0 bytes"),
        (START + struct.pack("<QQ", 0, 1 << 60), "keys in the 0 bytes"),
        (START + struct.pack("<QQQ", 0, 1, 1 << 60) + b"x" * 20, "bytes in the 20"),
        (START + struct.pack("<QQ", 0, 1) + KEY + array(0, 1 << 60), "values in the 0"),
        (START + struct.pack("<QQ", 0, 1) + KEY + array(9, 1), "an array of arrays"),
        (START + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<I", 77), "type 77"),
        (START + struct.pack("<QQ", 1, 0) + KEY + b"\xff" * 30, "4,294,967,295 dim"),
        (START, "damaged at byte 8"),
        (b"GGML", "is no GGUF file"),
    ],
    ids=range(9),
)
def test_a_header_that_counts_more_than_the_file_holds_is_refused(
    tmp_path, content, refusal
):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        check_gguf(path)
    assert refusal in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_header_that_holds_together_is_walked_to_its_end(tmp_path, order):
    def pack(form, *values):
        return struct.pack(order + form, *values)

    name = pack("Q", 1) + b"k"
    pairs = name + pack("II", 4, 7)  # a uint32
    pairs += name + pack("I", 8) + name  # a text
    pairs += name + pack("IIQ", 9, 8, 2) + name * 2  # two texts
    tensor = name + pack("IQQIQ", 2, 3, 4, 0, 0)
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + pack("IQQ", 3, 1, 3) + pairs + tensor)
    check_gguf(path)
