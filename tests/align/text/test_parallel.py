"""Parallel text: pairs from lines, tabs and rows, and what cannot be paired."""

import copy
import gzip
import pickle

import pytest
import torch

from align.text.fragment import ends
from align.text.parallel import pairs_of_file, pairs_of_lines
from align.text.prompted import Prompted
from align.tokens.batch import TokenBatch
from align.tokens.cut import piece_of


def test_lines_of_two_files_are_pairs(tmp_path):
    english, german = tmp_path / "a.en.gz", tmp_path / "a.de"
    english.write_bytes(gzip.compress(b"A dog.\r\nTwo\xe2\x80\xa8cats.\r\n"))
    german.write_bytes(b"Ein Hund.\nZwei Katzen.\n")
    pairs = list(pairs_of_lines(english, german))
    assert [pair[1:] for pair in pairs][:2] == [
        ("A dog.", "Ein Hund."),
        ("Two\u2028cats.", "Zwei Katzen."),  # no line end in either file
    ]
    assert pairs[1][0] == f"{english}, line 2"


@pytest.mark.parametrize("longer", ["en", "de"])
def test_files_of_different_length_are_refused(tmp_path, longer):
    for name in ("en", "de"):
        text = "one\ntwo\n" if name == longer else "one\n"
        (tmp_path / name).write_text(text)
    message = rf"{longer} has a line 2, but .*/(en|de) ends before it"
    with pytest.raises(ValueError, match=message):
        list(pairs_of_lines(tmp_path / "en", tmp_path / "de"))


def test_tabs_and_rows_hold_pairs(tmp_path):
    table, rows = tmp_path / "a.tsv", tmp_path / "a.jsonl"
    table.write_text('source\ttarget\nA "dog\tEin Hund\tscore\nA cat\tEine Katze\n')
    pairs = list(pairs_of_file(table, "source", "target"))
    assert [pair[1:] for pair in pairs] == [
        ('A "dog', "Ein Hund"),
        ("A cat", "Eine Katze"),
    ]
    rows.write_text('{"en": "A dog", "de": "Ein Hund"}\n')
    assert list(pairs_of_file(rows, "en", "de")) == [
        (f"{rows}, line 1", "A dog", "Ein Hund")
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "a\tb\nno tab here\n", "line 2: no tab"),
        ("a.jsonl", '{"source": "a"}\n', "line 1: there is no 'target'; give an"),
        (
            "a.jsonl",
            '{"source": "a", "target": 3}\n',
            "'target' is 3; .* texts 'source' and",
        ),
        ("a.parquet", "", "holds columns, which pairs are not read from"),
    ],
)
def test_what_holds_no_pairs_is_refused_with_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        list(pairs_of_file(tmp_path / name, "source", "target"))


def test_a_prompted_text_is_its_prompt_and_completion():
    text = Prompted("A dog =>", " Ein Hund")
    assert text == "A dog => Ein Hund"
    assert (text.prompt, text.completion, ends(text)) == ("A dog =>", " Ein Hund", True)
    for again in (copy.copy(text), pickle.loads(pickle.dumps(text))):
        assert (again, again.answer, again.goes_on) == (text, 8, False)
    cut = piece_of(text, (0, 12))
    assert (cut, cut.answer, ends(cut)) == ("A dog => Ein", 8, False)
    assert Prompted.cut(text, 3).completion == ""


def test_the_completion_alone_is_learned():
    # "ab=>" cd | the tokens: <s> a b=> c d </s>, one token over the seam in row 1
    spans = torch.tensor(
        [
            [[0, 0], [0, 1], [1, 4], [4, 5], [5, 6], [6, 6]],
            [[0, 0], [0, 1], [1, 3], [3, 5], [5, 6], [6, 6]],
            [[0, 0], [0, 1], [1, 4], [4, 5], [5, 6], [6, 6]],
        ]
    )
    texts = (Prompted("ab=>", "cd"), Prompted("ab=>", "cd"), "ab=>cd")
    mask = torch.ones(3, 6, dtype=torch.bool)
    batch = TokenBatch(torch.zeros(3, 6, dtype=torch.int64), mask, spans, texts)
    assert batch.predicted.tolist() == [
        [False, False, False, True, True, True],
        [False, False, False, True, True, True],
        [True] * 6,
    ]
    cut = Prompted("ab=>cd", "")  # nothing of the answer is left
    none = TokenBatch(batch.ids[:1], mask[:1], spans[:1], (cut,))
    assert not none.predicted.any()
