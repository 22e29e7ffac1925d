"""A seal by an independent reckoning."""

import hashlib
import json

import pytest

from align.foreign.seal import DamageError, read_sealed, sealed_text


def test_a_seal_is_the_digest_of_the_text_without_its_line(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(sealed_text({"a": [1.5, None], "b": "é"}))
    assert read_sealed(file) == ({"a": [1.5, None], "b": "é"}, True)
    rows = file.read_text().splitlines()
    assert rows[1] == ' "mtkd_sealed": 1,' and len(rows[-2].split('"')[3]) == 64
    without = "\n".join([*rows[:-3], rows[-3].removesuffix(","), "}"])
    assert hashlib.sha256(without.encode()).hexdigest() == rows[-2].split('"')[3]


@pytest.mark.parametrize("sign", ['"mtkd_sealed"', '"mtkd_sha256"'])
def test_with_one_sign_of_a_seal_gone_it_is_damaged_and_not_an_earlier_ones(
    tmp_path, sign
):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": 1}))
    assert read_sealed(file) == ({"a": 1}, False)
    file.write_text(sealed_text({"a": 1}).replace(sign, '"other"'))
    with pytest.raises(DamageError, match=r"a\.json is damaged or edited"):
        read_sealed(file)
