import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import NonFiniteTeacherError
from student.curriculum import Draw, Scores
from student.curriculum.built_in import Competence
from student.loop.batches import BatchMaker, prefetched
from student.places import Counts, Places

SAMPLES = [TextSample("abcdefgh"[: 2 + i % 5], "letters", str(i)) for i in range(7)]


def encode(texts):
    """One token a character, padded on the right."""
    longest = max(map(len, texts))
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor([ord(c) for c in text])
        mask[row, : len(text)] = True
    place = torch.arange(longest)
    spans = torch.stack([place, place + 1], -1) * mask[..., None]
    return TokenBatch(ids, mask, spans, tuple(texts))


def survey(batch, readings, rows):
    """Every predicted token counts, for itself and for a term."""
    none = batch.has_text[..., None][..., :0]
    places = Places(
        batch=batch,
        readings=readings,
        rows=rows,
        available=none,
        clear=none,
        weight=none.float(),
        pairings=(),
    )
    return places, Counts(places.predicted, {"ce": (places.predicted,)})


def maker(**changes):
    cpu = torch.device("cpu")
    plain = BatchMaker(
        samples=SAMPLES,
        encode=encode,
        views=None,
        seed=5,
        rows=16,
        batch_size=3,
        first_sample=0,
        device=cpu,
        rank=0,
        world_size=1,
        survey=survey,
    )
    return replace(plain, **changes)


def test_sampled_rows_are_real_tokens_and_the_same_when_asked_again():
    train_batch = maker().make(7)
    assert train_batch.rows.shape == (3, 16)
    assert bool(train_batch.batch.mask.gather(1, train_batch.rows).all())
    assert torch.equal(train_batch.rows, maker().make(7).rows)
    assert maker(rows=0).make(7).rows is None


def test_two_processes_read_what_one_reads():
    alone = maker(batch_size=4).make(1)
    both = [maker(batch_size=2, rank=r, world_size=2).make(1) for r in (0, 1)]
    shared = [sample.id for train_batch in both for sample in train_batch.samples]
    assert shared == [sample.id for sample in alone.samples]


def test_two_processes_share_what_a_curriculum_names():
    scores = Scores(
        domains=["a"] * len(SAMPLES),
        columns={"length": torch.arange(len(SAMPLES), dtype=torch.float64)},
    )
    curriculum = Competence(difficulty="length", groups=len(SAMPLES))
    step = 12  # texts of an optimiser step, however many passes and processes

    def chosen(numbers):
        draws = {
            first: curriculum(scores, Draw(seed=1, first=first, size=step, texts=60))
            for first in {number // step * step for number in numbers}
        }
        return [draws[number // step * step][number % step] for number in numbers]

    alone = maker(batch_size=6, chosen=chosen)
    both = [maker(world_size=2, rank=rank, chosen=chosen) for rank in range(2)]
    for number in range(4):
        apart = [each.make(number).samples for each in both]
        assert [*apart[0], *apart[1]] == list(alone.make(number).samples)
    dealt = [maker(world_size=2, rank=r, chosen=chosen, dealt=2) for r in range(2)]
    read = [s.id for each in dealt for n in range(2) for s in each.make(n).samples]
    assert sorted(read) == sorted(SAMPLES[i].id for i in chosen(range(step)))


def test_a_later_phase_reads_on():
    ids = [sample.id for sample in maker(first_sample=3).make(0).samples]
    assert ids == [sample.id for sample in maker().make(1).samples]


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order_each_made_once(ahead):
    made = []

    def train_batch(number):
        made.append(number)
        return number

    assert list(prefetched(train_batch, 2, 7, ahead)) == [2, 3, 4, 5, 6]
    assert made == [2, 3, 4, 5, 6]


def test_the_next_batch_is_made_while_this_one_is_trained_on():
    started = {number: threading.Event() for number in range(4)}

    def train_batch(number):
        started[number].set()
        return number

    train_batches = prefetched(train_batch, 0, 4, ahead=True)
    assert next(train_batches) == 0
    assert started[1].wait(timeout=30)
    assert not started[2].is_set()
    train_batches.close()


def test_a_teacher_that_fails_in_the_background_fails_the_loop():
    def train_batch(number):
        if number == 1:
            raise RuntimeError("teacher 'x' is not finite")
        return number

    train_batches = prefetched(train_batch, 0, 3, ahead=True)
    next(train_batches)
    with pytest.raises(RuntimeError, match="teacher 'x'"):
        next(train_batches)


def test_background_work_uses_the_callers_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        counts = list(prefetched(lambda _: torch.get_num_threads(), 0, 2, ahead=True))
    finally:
        torch.set_num_threads(before)
    assert counts == [1, 1]


def test_background_work_is_done_on_the_callers_gpu(monkeypatch):
    """A new thread would launch on the first GPU, whichever process it belongs to."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    gpu = torch.device("cuda", 3)
    assert list(prefetched(lambda number: number, 0, 2, ahead=True, device=gpu)) == [
        0,
        1,
    ]
    assert chosen == [gpu]
    for device in (None, torch.device("cpu"), torch.device("cuda")):  # no choice
        assert list(prefetched(lambda n: n, 0, 2, ahead=True, device=device)) == [0, 1]
    assert chosen == [gpu]


def test_what_moves_is_asked_in_the_step_and_the_others_ahead():
    asked = []

    class Panel:
        def read(self, batch):
            return [SimpleNamespace(name=name) for name in ("still", "moves", "too")]

        def __call__(self, batch, rows, readings, names):
            asked.append(sorted(names))
            return [SimpleNamespace(name=r.name) for r in readings if r.name in names]

    made = maker(views=Panel(), in_step=["moves"])
    read = made.by_step(2)
    first, second = read(0), read(1)
    assert asked == [["still", "too"]] * 2
    whole = made.complete(first)
    assert asked[2:] == [["moves"]]
    assert [view.name for view in whole.views] == ["still", "moves", "too"]
    bad = replace(second, problem=NonFiniteTeacherError("still", "no"), views=())
    assert made.complete(bad) is bad and len(asked) == 3
