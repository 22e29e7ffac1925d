import pytest

from teacher.store.manifest import Manifest, StoreError, read_sealed


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"digest": ' + "9" * 5_000 + "}",
        "[]",
        "",
        "nan",
        '{"version": 9}',
    ],
    ids=range(6),
)
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "store.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"store\.json") as refused:
        read_sealed(path, Manifest)
    assert len(str(refused.value).splitlines()) == 1
