import copy
import json
import os
import signal
import sys
from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from align.text.conversation import Conversation
from align.text.documents import TextSample, read_texts
from experiments.record.progress import Progress
from experiments.record.stop import RunStopped
from experiments.writing.corpus import Plan, facts_of, parts_of, write_corpus
from experiments.writing.drawing import Drawing
from experiments.writing.openings import Opening, beginnings, prompts
from experiments.writing.writer import Writer, Written
from teacher.loading.models import load_model
from teacher.writing import Beam, Greedy, Sample

FACTS = {"by": "tiny", "weights": "0", "writer": "greedy"}


@pytest.fixture(scope="module")
def writer(tiny_llama):
    loaded = load_model(tiny_llama, dtype="float32")
    return Writer(loaded.model, loaded.tokenizer, "tiny")


def plan_of(count, way=None, **facts):
    return Plan(
        openings=[Opening(f"word {n}", id=f"p:{n}") for n in range(count)],
        way=way or Greedy(),
        max_new_tokens=3,
        seed=1,
        facts={**FACTS, **facts},
    )


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tasks_in_any_order_write_what_one_does_byte_for_byte(
    writer, tmp_path, monkeypatch
):
    monkeypatch.setattr("experiments.writing.corpus.PART", 3)
    plan = plan_of(8, Sample(texts=2))
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    whole = write_corpus(alone, plan, writer, range(3), Progress(enabled=False))
    assert (whole.made, whole.missing) == (3, [])
    for numbers, missing in ((range(2, 3), [0, 1]), (range(2), [])):
        some = write_corpus(shared, plan, writer, numbers, Progress(enabled=False))
        assert some.missing == missing
    assert shared.read_bytes() == alone.read_bytes()
    assert not parts_of(shared).exists()
    assert json.loads(facts_of(alone).read_text())["counts"]["rows"] == len(
        rows_of(alone)
    )


def test_a_stopped_task_goes_on_where_it_was_and_mends_a_damaged_part(
    writer, tmp_path, monkeypatch
):
    monkeypatch.setattr("experiments.writing.corpus.PART", 2)
    plan, out = plan_of(6, Sample()), tmp_path / "w.jsonl"
    made = []
    progress = Progress(
        enabled=False, stop=lambda: len(list(parts_of(out).glob("0*"))) > 1
    )
    with pytest.raises(RunStopped):
        write_corpus(out, plan, writer, range(3), progress)
    assert not out.exists()
    _, second = sorted(parts_of(out).glob("0*"))
    second.write_bytes(second.read_bytes()[:-9])
    monkeypatch.setattr(
        writer,
        "texts",
        lambda ids, *a, _of=writer.texts, **k: made.append(ids) or _of(ids, *a, **k),
    )
    outcome = write_corpus(out, plan, writer, range(3), Progress(enabled=False))
    assert (outcome.made, outcome.kept, len(made)) == (2, 1, 2)
    again = tmp_path / "again.jsonl"
    write_corpus(again, plan, writer, range(3), Progress(enabled=False))
    assert again.read_bytes() == out.read_bytes()
    # What is whole is not written again.
    assert write_corpus(out, plan, writer, range(3), Progress(enabled=False)).made == 0


class Scribe:
    """Writes at once, what depends on the prompt and the seed alone."""

    def ids(self, text):
        return list(text.encode())

    def texts(self, prompts, way, *, max_new_tokens, seed):
        return [
            [Written(f" {sum(ids) * seed % 97}", "end", ids=(1,))] for ids in prompts
        ]


def test_of_equal_texts_the_first_stays_and_blank_ones_are_counted(tmp_path):
    class Says(Scribe):
        def texts(self, prompts, way, *, max_new_tokens, seed):
            said = [" yes", " yes", " no", " \n"]
            return [[Written(x, "end", ids=(1,)) for x in said] for _ in prompts]

    plan = plan_of(3)
    openings = [plan.openings[0], plan.openings[1], plan.openings[0]]
    plan = replace(plan, openings=openings)
    out = tmp_path / "w.jsonl"
    outcome = write_corpus(out, plan, Says(), range(1), Progress(enabled=False))
    rows = [(row["prompt"], row["completion"]) for row in rows_of(out)]
    # The same words after other ones are another text.
    assert rows == [(f"word {n}", said) for n in (0, 1) for said in (" yes", " no")]
    assert outcome.counts == {"rows": 4, "twice": 5, "empty": 3, "skipped": 0}
    assert plan.seed_of(0) != plan.seed_of(1)


CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def killed_after(changes, work, folder):
    """Whether a process of its own was killed before so many changes in a folder."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    counted = 0

    def watch(event, arguments):
        nonlocal counted
        opened = event == "open" and str(arguments[1] or "").strip("rb")
        if (opened or event in CHANGES) and str(folder) in str(arguments[0]):
            counted += 1
            if counted > changes:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    work()
    os._exit(0)


@pytest.mark.slow
def test_a_writer_killed_before_any_change_on_disk_is_made_good_byte_for_byte(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("experiments.writing.corpus.PART", 2)
    plan = plan_of(2)

    def work(out):
        return write_corpus(out, plan, Scribe(), range(1), Progress(enabled=False))

    def left(folder):
        return {f.name: f.read_bytes() for f in folder.glob("w*") if f.is_file()}

    (tmp_path / "whole").mkdir()
    work(tmp_path / "whole" / "w.jsonl")
    whole, changes = left(tmp_path / "whole"), 0
    assert len(whole) == 2
    while True:
        folder = tmp_path / str(changes)
        folder.mkdir()
        out = folder / "w.jsonl"
        killed = killed_after(changes, lambda out=out: work(out), folder)
        work(out)
        assert left(folder) == whole, changes
        assert not parts_of(out).exists(), changes
        if not killed:
            break
        changes += 1
    assert changes > 10


def test_rows_say_where_they_are_from_and_are_read_as_training_text(writer, tmp_path):
    out = tmp_path / "w.jsonl"
    write_corpus(out, plan_of(2), writer, range(1), Progress(enabled=False))
    row = rows_of(out)[0]
    assert row["prompt"] == "word 0" and row["weight"] == 1
    assert row["from"] == "p:0" and row["by"] == "tiny" and "seed" in row
    alone = writer.write([writer.ids("word 0")], Drawing(max_new_tokens=3))
    assert row["completion"] == alone[0].text
    (first, _), (asked, _) = read_texts(out), read_texts(out, chats="template")
    assert first.text == row["prompt"] + row["completion"]
    assert [turn["content"] for turn in asked.text.messages] == [
        row["prompt"],
        row["completion"],
    ]


def test_beams_are_what_transformers_finds_weighed_by_their_likelihood(writer):
    ids = writer.ids("The router learns")
    texts = writer.texts([ids], Beam(beams=3), max_new_tokens=4, seed=0)[0]
    whole = writer.model.generate(
        torch.tensor([ids]),
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=writer.ends,
        pad_token_id=0,
    )
    with torch.no_grad():
        logits = writer.model(whole).logits.double().log_softmax(-1)
    chosen = logits[:, len(ids) - 1 : -1].gather(-1, whole[:, len(ids) :, None])
    by_hand = {}
    for row, likelihood in zip(whole, chosen.sum((1, 2)), strict=True):
        spelled = writer.tokenizer.decode(row[len(ids) :], skip_special_tokens=True)
        by_hand.setdefault(spelled, likelihood)  # of two that spell alike the first
    weights = torch.stack(list(by_hand.values())).softmax(0).tolist()
    assert [text.text for text in texts] == list(by_hand) and len(texts) > 1
    assert [text.weight for text in texts] == pytest.approx(weights, abs=1e-6)
    assert sum(text.weight for text in texts) == pytest.approx(1)


def test_equal_openings_of_two_batches_are_drawn_apart(writer, monkeypatch):
    monkeypatch.setattr("experiments.writing.writer.AT_ONCE", 2)
    ids = [writer.ids("The")] * 6
    drawn = writer.texts(ids, Sample(), max_new_tokens=12, seed=0)
    assert len({texts[0].text for texts in drawn}) > 2  # one seed would repeat two


def test_another_plan_does_not_write_over_a_corpus(writer, tmp_path):
    out = tmp_path / "w.jsonl"
    write_corpus(out, plan_of(1), writer, range(1), Progress(enabled=False))
    with pytest.raises(InputError, match="weights was 0 and is 1; give another --out"):
        write_corpus(
            out, plan_of(1, weights="1"), writer, range(1), Progress(enabled=False)
        )
    mine = tmp_path / "mine.jsonl"
    mine.write_text("kept\n")
    with pytest.raises(InputError, match="holds other text"):
        write_corpus(mine, plan_of(1), writer, range(1), Progress(enabled=False))
    assert mine.read_text() == "kept\n"


def test_what_a_model_cannot_read_is_counted(tiny_llama, tmp_path):
    loaded = load_model(tiny_llama, dtype="float32")
    short = Writer(loaded.model, loaded.tokenizer, "tiny")
    short.context = 4
    out, plan = tmp_path / "w.jsonl", plan_of(1)
    plan = Plan(
        openings=[Opening("a"), Opening("far more than four tokens of text")],
        way=plan.way,
        max_new_tokens=2,
        seed=0,
        facts=FACTS,
    )
    counts = write_corpus(out, plan, short, range(1), Progress(enabled=False)).counts
    assert counts["skipped"] == 1 and counts["rows"] + counts["empty"] == 1


def test_beginnings_end_at_words_and_none_comes_twice(writer):
    texts = ["The router learns from outcomes.", "The router learns to wait here."]
    samples = [TextSample(text, "prose", str(n)) for n, text in enumerate(texts)]
    (opening,) = beginnings([samples[0], samples[0]], writer, tokens=10, number=None)
    assert texts[0].startswith(opening.text) and opening.domain == "prose"
    following = texts[0][len(opening.text) :]
    assert following[:1].isspace() and opening.text.strip()
    assert len(beginnings(samples, writer, tokens=10, number=1)) == 1


def test_a_conversation_is_answered_or_read_as_its_plain_text(writer):
    turns = [
        {"role": "user", "content": "What is it that the router learns from?"},
        {"role": "assistant", "content": "From outcomes."},
    ]
    sample = TextSample(Conversation(turns), "chat", "0")
    (plain,) = beginnings([sample], writer, tokens=12, number=None)
    assert not plain.turns and sample.text.plain().startswith(plain.text)
    assert plain.text.startswith("user: What")
    talking = copy.copy(writer)
    talking.tokenizer = copy.deepcopy(writer.tokenizer)
    talking.tokenizer.chat_template = "{{ messages[0].content }}"
    (asked,) = beginnings([sample], talking, tokens=12, number=None)
    assert asked.turns == (turns[0],) and not asked.text
    row = asked.row("An answer.")
    assert row["messages"][-1] == {"role": "assistant", "content": "An answer."}


def test_prompts_are_lines_or_rows(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("one\n\ntwo\none\n")
    assert [o.text for o in prompts(lines, None, chat=False)] == ["one", "two"]
    assert [dict(t) for t in prompts(lines, 1, chat=True)[0].turns] == [
        {"role": "user", "content": "one"}
    ]
    rows = tmp_path / "rows.jsonl"
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "an old answer"},
    ]
    rows.write_text(
        json.dumps({"prompt": "p"}) + "\n" + json.dumps({"messages": turns})
    )
    first, second = prompts(rows, None, chat=False)
    assert first.text == "p" and second.turns == (turns[0],)
    rows.write_text(json.dumps({"messages": turns[1:]}))
    with pytest.raises(InputError, match=r"line 1: a row has \['messages'\]; give"):
        prompts(rows, None, chat=False)
    rows.write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match=r"line 1: a row has \['text'\]; give prompt"):
        prompts(rows, None, chat=False)
