import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import pytest

import teacher.zoo.text as zoo_text
from align.errors import MachineError
from teacher.zoo.text import (
    DOMAINS,
    SPLIT_CHARS,
    SPLITS,
    _separate,
    cut_text,
    text_fingerprint,
    zoo_documents,
    zoo_samples,
)


def long_paragraphs(split: str) -> set[str]:
    return {
        " ".join(paragraph.split())
        for domain in DOMAINS
        for _, text in zoo_documents(domain, split)
        for paragraph in text.split("\n\n")
        if len(" ".join(paragraph.split())) >= 60
    }


@pytest.fixture
def unread(monkeypatch):
    """As in a process that has read nothing of the library; what this one has read
    is there again afterwards."""
    reading = zoo_text._corpus.__wrapped__
    monkeypatch.setattr(zoo_text, "_corpus", lru_cache(maxsize=2)(reading))


def test_no_paragraph_stands_in_two_splits():
    seen: set[str] = set()
    for split in SPLITS:
        here = long_paragraphs(split)
        assert here
        assert not here & seen, split
        seen |= here


def test_what_is_not_the_teachers_takes_no_reading_of_theirs(monkeypatch, request):
    """Fails where the whole library is read for a student's text: seconds a run."""
    separated, separate = [], zoo_text._separate

    def counted(source):
        separated.append(source)
        return separate(source)

    whole = {key: zoo_documents(*key) for key in zoo_text._corpus(whole=True)}
    request.getfixturevalue("unread")
    monkeypatch.setattr(zoo_text, "_separate", counted)
    for (domain, split), documents in whole.items():
        if split != "teacher":
            assert zoo_documents(domain, split) == documents
    assert 0 < len(separated) <= len(zoo_text.noted_splits()["files"])


def test_threads_that_ask_at_once_have_it_read_once(monkeypatch, unread):
    inside, most, readings = [], [], []

    def slow(whole):
        inside.append(whole)
        most.append(len(inside))
        time.sleep(0.05)
        readings.append(whole)
        inside.pop()
        return []

    monkeypatch.setattr(zoo_text, "_separated", slow)
    monkeypatch.setattr(zoo_text, "_topics", lambda whole: [])
    monkeypatch.setattr(
        zoo_text, "_sizes", lambda *_: {"files": ({},), "topics": ({},)}
    )
    monkeypatch.setattr(zoo_text, "_assign", lambda *_: {})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: zoo_documents("code", "teacher"), range(4)))
    assert most == [1] and readings == [True]


def test_no_document_stands_in_two_splits():
    owner: dict[str, str] = {}
    for split in SPLITS:
        for domain in DOMAINS:
            for name, _ in zoo_documents(domain, split):
                assert owner.setdefault(name, split) == split


@pytest.mark.parametrize("domain", DOMAINS)
def test_student_reads_far_less_than_teachers(domain):
    sizes = {
        split: sum(len(text) for _, text in zoo_documents(domain, split))
        for split in SPLITS
    }
    for split, wanted in SPLIT_CHARS.items():
        assert 0.6 * wanted <= sizes[split] <= 1.4 * wanted
    assert sizes["teacher"] > 3 * sizes["student"]


def test_what_is_held_out_is_so_on_every_python_by_its_name(monkeypatch):
    """The shipped teachers have read one Python's text: fails where documents are
    dealt by size, which differs from one Python to the next."""
    noted = zoo_text.noted_splits()["files"]
    sizes = dict.fromkeys([*noted, "asyncio/no_such_module.py"], 10_000)
    assert zoo_text._assign("files", sizes, share=0.75) == {
        **noted,
        "asyncio/no_such_module.py": "teacher",
    }
    for split in SPLIT_CHARS:
        for domain in DOMAINS:
            for name, _ in zoo_documents(domain, split):
                kind = "topics" if name.startswith("topics/") else "files"
                assert zoo_text.noted_splits()[kind][name] == split


def test_a_library_that_lacks_much_of_what_is_held_out_is_refused():
    few = dict.fromkeys(list(zoo_text.noted_splits()["files"])[:3], 1000)
    with pytest.raises(MachineError, match=r"holds \d.*install its standard library"):
        zoo_text._assign("files", few, share=0.75)


def test_dealing_takes_no_document_twice_and_none_that_is_a_split_by_itself():
    sizes = {f"{n}.py": 15_000 for n in range(40)} | {"large.py": 10**6}
    splits = zoo_text.dealt(sizes, share=0.75)
    names = [name for dealt in splits.values() for name in dealt]
    assert len(names) == len(set(names)) and "large.py" not in names
    assert len(splits["eval"]) == 4 and len(splits["student"]) == 15


def test_docstrings_and_long_comments_are_prose_and_the_rest_is_code():
    doc = "Say what this does, at a length that makes it prose. " * 2
    source = (
        f'"""{doc}"""\nimport os\n\n# one\n# two\n# {"three " * 20}\n'
        'def f():\n    """Short."""\n    # kept\n    return os\n'
    )
    prose, code = _separate(source)
    assert prose == f"{doc.strip()}\n\none\ntwo\n{('three ' * 20).strip()}"
    assert code == "import os\n\ndef f():\n    # kept\n    return os\n"


def test_a_cut_prefers_paragraphs_then_lines_then_words():
    assert list(cut_text("aaa\n\nbbb ccc", 6)) == ["aaa", "bbb", " ccc"]
    assert list(cut_text("abcdefgh", 3)) == ["abc", "def", "gh"]


def test_cutting_loses_nothing_but_line_ends():
    for _, text in zoo_documents("code", "eval"):
        pieces = list(cut_text(text, 200))
        assert max(map(len, pieces)) <= 200
        assert "".join("".join(pieces).split()) == "".join(text.split())


def test_an_unknown_domain_or_split_is_named_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"domain 'verse'.*prose, code"):
        zoo_documents("verse", "eval")
    with pytest.raises(ValueError, match=r"split 'test'.*teacher, student"):
        zoo_documents("code", "test")


def test_the_fingerprint_of_the_text_stands_still():
    first = text_fingerprint()
    text_fingerprint.cache_clear()
    assert text_fingerprint() == first


def test_samples_are_the_cut_documents_with_unique_ids():
    samples = zoo_samples("prose", "eval", max_chars=300)
    assert len({sample.id for sample in samples}) == len(samples)
    assert all(0 < len(s.text) <= 300 and s.domain == "prose" for s in samples)
    assert samples == zoo_samples("prose", "eval", max_chars=300)
    with pytest.raises(ValueError, match="max_chars must be >= 1, got 0"):
        zoo_samples("prose", "eval", max_chars=0)
