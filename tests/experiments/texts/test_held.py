"""Texts on disk are those in memory, in the same order, in less of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import pytest
from transformers import AutoTokenizer

from align.errors import InputError
from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.text.fragment import Fragment
from align.text.prompted import Prompted
from experiments.assemble.data import Encoder, load_data
from experiments.run.lineage import samples_digest
from experiments.texts.config import DataConfig
from experiments.texts.held import TextFileOnDisk, chosen
from tests.fresh import answers, given

TALK = [{"role": "user", "content": "é 1"}, {"role": "assistant", "content": "2"}]
KINDS = [
    "plain\r\n\u2028😀",
    Fragment("goes on"),
    Prompted("a", " b", goes_on=True),
    Conversation(TALK, "\n", date(2026, 1, 2), True, [1]),
    Conversation(TALK),
    "",
]
FIELDS = ("messages", "joint", "today", "goes_on", "learned", "answer")


def inside(sample):
    text = sample.text
    held = {name: getattr(text, name, None) for name in FIELDS}
    return type(text), str(text), held, replace(sample, text="")


@pytest.fixture
def samples():
    return [
        TextSample(text, "d", f"f:{n}", weight=1 / (n + 3), own=n == 2)
        for n, text in enumerate(KINDS)
    ]


def test_every_kind_of_text_comes_back_as_it_went(samples, tmp_path):
    texts = TextFileOnDisk(tmp_path / "new")
    texts.extend(samples[:4])
    texts.extend(samples[4:])
    assert list(map(inside, texts)) == list(map(inside, samples))
    assert inside(texts[-2]) == inside(samples[-2])
    assert list(map(inside, texts[1:3])) == list(map(inside, samples[1:3]))
    order = [3, 1, 1, 0]
    some = chosen(texts, order)
    assert list(map(inside, some)) == [inside(samples[n]) for n in order]
    assert len(some) == 4 and some[1:3] == [samples[1], samples[1]]
    assert chosen(samples, order) == [samples[n] for n in order]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(texts.__getitem__, [n % 6 for n in range(200)]))
    assert list(map(inside, read[:6])) == list(map(inside, samples))
    assert not list((tmp_path / "new").iterdir())  # nothing is left behind
    with pytest.raises(IndexError):
        texts[6]


def test_what_json_does_not_hold_is_refused(tmp_path):
    odd = Conversation([{**TALK[0], "when": date(2026, 1, 2)}])
    with pytest.raises(InputError, match=r"a:3: a message .* set data\.hold=memory"):
        TextFileOnDisk(tmp_path).extend([TextSample(odd, "d", "a:3")])


@pytest.mark.parametrize("gated", [False, True])
def test_a_run_reads_the_same_from_disk_as_from_memory(
    tiny_zoo, tmp_path, monkeypatch, gated
):
    monkeypatch.setattr(
        "experiments.assemble.data.cache_folder", lambda: tmp_path / "cache"
    )
    rows = [{"text": f"Text {n} of prose. " * (1 + n % 9)} for n in range(60)]
    rows += [{"messages": [TALK[0], {**TALK[1], "content": f"{n}"}]} for n in range(9)]
    for name, part in (("prose", rows[:60]), ("chat", rows[60:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    tokenizer = AutoTokenizer.from_pretrained(tiny_zoo["gpt2-prose"])

    def read(hold):
        config = DataConfig(
            train=[str(tmp_path / "prose.jsonl"), str(tmp_path / "chat.jsonl")],
            hold=hold,
            max_length=16,
            mix={"chat": 2.5},
            eval_samples=2,
        )
        return load_data(config, Encoder(tokenizer, 16, True), 5, gated=gated)

    memory, disk = read("memory"), read("disk")
    for name in ("train", "eval", "calibration", "gate"):
        ours, theirs = (getattr(data, name) for data in (disk, memory))
        assert list(map(inside, ours)) == list(map(inside, theirs)), name
        assert samples_digest(ours) == samples_digest(theirs)
    assert isinstance(memory.train, list) and not isinstance(disk.train, list)
    assert disk.notes == memory.notes and disk.warnings == memory.warnings


LIMITED = """
import gc, resource
from transformers import AutoTokenizer
from experiments.assemble.data import Encoder, load_data
from experiments.texts.config import DataConfig

def answer(value):
    file, hold, room, first, model = value
    gc.enable()  # as it is in a run
    tokenizer = AutoTokenizer.from_pretrained(model)
    small = DataConfig(train=[first], hold=hold, max_length=512)
    load_data(small, Encoder(tokenizer, 512), 0)  # loads what is loaded on first use
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    config = DataConfig(train=[file], hold=hold, max_length=512)
    data = load_data(config, Encoder(tokenizer, 512), 0)
    return [len(data.train), sum(len(sample.text) for sample in data.train)]
"""


@pytest.mark.slow
def test_text_larger_than_the_memory_that_is_left_is_read(tiny_zoo, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    line = "word after word, and then some more of them; "
    texts = [f"{n} {line * 20}" for n in range(12_000)]
    for name, part in (("large", texts), ("small", texts[:256])):
        table = pyarrow.table({"text": part})
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=256)
    large, room = sum(map(len, texts)), 8 << 20
    assert large > 1.25 * room

    files = [str(tmp_path / f"{name}.parquet") for name in ("large", "small")]
    value = [files[0], "disk", room, files[1], str(tiny_zoo["gpt2-prose"])]
    (answer,) = answers(LIMITED, [value])
    count, chars = given(answer)
    assert count == 0.9 * len(texts) and chars > 1.1 * room  # a tenth is held out
