import re

import pytest

from align.errors import MissingFileError
from experiments.bench.quality.disjoint import domains as of


def test_held_out_documents_come_first_and_the_teacher_has_the_rest():
    documents = [f"{n:02}" + "x" * 98 for n in range(50)]  # 100 characters each
    dealt = of.deal(documents)
    assert dealt["eval"] == documents[:4]  # 8 % of 5,000
    assert dealt["student"] == documents[4:19]
    assert dealt["teacher"] == documents[19:]


def test_sums_are_right_and_no_split_has_anothers():
    splits = {split: of.EMBEDDED["mathematics"](split) for split in ("eval", "student")}
    text = "\n".join(splits["eval"])
    solved = re.findall(r"Solve (\d+)x \+ (\d+) = (-?\d+)\.\n.* = (-?\d+)\.\n", text)
    assert len(solved) > 50
    for a, b, right, x in solved:
        assert int(a) * int(x) + int(b) == int(right)
    shares = re.findall(r"What is (\d+) % of (\d+)\?\n.* = (\d+)\.\n", text)
    for part, whole, value in shares:
        assert int(part) * int(whole) == 100 * int(value)
    chains = re.findall(r"Compute ([^.]+)\.\n(?:.*\n)(-?\d+)\.", text)
    assert len(chains) > 50 and len(shares) > 50
    for sum_, value in chains:
        a, b, c, d = (int(n) for n in re.findall(r"\d+", sum_.replace("(1 +", "(")))
        assert a * b - c * (1 + d) == int(value)
    assert not set(splits["eval"]) & set(splits["student"])


def test_a_text_of_ones_own_stands_beside_the_embedded_or_in_their_place(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(of, "EMBEDDED", {"sums": lambda split: [f"1 + 1 {split}"]})
    path = tmp_path / "own.txt"
    path.write_text("\n\n".join(f"Absatz {n}. " + "Wort " * 900 for n in range(40)))
    both = of.texts_of({"german": path})
    assert list(both) == ["sums", "german"]
    assert both["sums"]["teacher"] == ["1 + 1 teacher"]
    assert all("Absatz" in both["german"][split][0] for split in of.SPLITS)
    assert list(of.texts_of({"sums": path})) == ["sums"]
    with pytest.raises(MissingFileError):
        of.texts_of({"german": tmp_path / "none.txt"})
