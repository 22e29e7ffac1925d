"""The student's own writing: the same whoever writes it, and the student as before."""

from functools import partial

import pytest
import torch

from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.text.fragment import Fragment, ends
from experiments.assemble.data import Encoder, cutter_of
from experiments.writing.buffer import Buffer, Processes
from experiments.writing.openings import beginning
from experiments.writing.writer import lent
from student.loop.data_order import lives, sample_indices
from teacher.loading.models import load_model
from teacher.writing import Beam, Greedy, Sample
from teacher.writing.config import WrittenConfig
from tests.experiments.small_runs import SENTENCES

TEXTS = [
    TextSample(f"{SENTENCES[n % 5]} Number {n}.", "text", f"t:{n}") for n in range(24)
]


@pytest.fixture(scope="module")
def loaded(tiny_zoo):
    return load_model(tiny_zoo["student"], dtype="float32")


def buffer_of(loaded, way=None, gather=lambda mine: [mine], rank=0, count=1, **changes):
    changes = {"share": 0.5, "every": 3, "opening_tokens": 6, **changes}
    config = WrittenConfig(by="student", max_new_tokens=8, **changes)
    return Buffer(
        config=config,
        way=way or Greedy(),
        samples=TEXTS,
        seed=3,
        phase_seed=3000,
        first_sample=0,
        texts_per_step=16,
        steps=9,
        writer=partial(lent, loaded.model, loaded.tokenizer, "the student", None),
        cutter=cutter_of(Encoder(loaded.tokenizer, 48)),
        processes=Processes(rank=rank, count=count, gather=gather),
    )


def given(number):
    (index,) = sample_indices(len(TEXTS), 3, number, 1)
    return TEXTS[index]


def read(buffer, first, last):
    return [buffer.in_place_of(n, given(n)) for n in range(first, last)]


def test_of_a_hundred_texts_as_many_are_written_as_the_share_says(loaded):
    for share in (0.07, 0.29, 0.57, 1.0):  # 0.29 * 100 is less than 29 in binary
        buffer = buffer_of(loaded, share=share)
        assert sum(map(buffer._stands_in, range(100))) == round(100 * share)


def test_it_holds_token_for_token_what_the_model_generates_from_each_opening(loaded):
    buffer = buffer_of(loaded)
    buffer.write(3)
    model, tokenizer = loaded.model, loaded.tokenizer
    for number in range(48, 96):
        sample, opening = buffer.in_place_of(number, given(number)), given(number)
        if number % 2 == 0:  # half of them, evenly
            assert sample is opening
            continue
        words = beginning(opening.text, tokenizer, 6)
        ids = tokenizer(words, return_tensors="pt")
        end = [tokenizer.eos_token_id]
        whole = model.generate(
            **ids, do_sample=False, max_new_tokens=8, eos_token_id=end
        )[0]
        text = tokenizer.decode(whole, skip_special_tokens=True)
        assert sample.text == text.rstrip("\ufffd") and sample.own
        assert ends(sample.text) == (int(whole[-1]) in end)


def test_every_place_reads_a_text_of_its_own_or_so_many_in_turn(loaded):
    buffer = buffer_of(loaded, Sample())
    line = buffer.write(0)
    assert line["read"] == line["texts"] == 24
    few = buffer_of(loaded, texts=4)
    assert few.write(0)["texts"] == 4
    written = [sample for sample in read(few, 0, 48) if sample.own]
    assert len(written) == 24 and written[:4] == written[4:8] == written[20:]
    beams = buffer_of(loaded, Beam(beams=2), texts=4)
    assert beams.write(0)["texts"] <= 4
    own = [s for s in read(beams, 0, 48) if s.own]
    assert sum(s.weight for s in own[:4]) == pytest.approx(4, abs=1e-6)


class Handed(Exception):
    pass


@pytest.mark.parametrize("way", [Greedy(), Sample(temperature=1.5)])
def test_two_processes_write_what_one_does(loaded, way):
    alone = buffer_of(loaded, way)
    alone.write(3)

    def hand_over(part):
        raise Handed(part)

    with pytest.raises(Handed) as handed:
        buffer_of(loaded, way, hand_over, rank=1, count=2).write(3)
    other = handed.value.args[0]
    parts = [set(other)]

    def share(mine):
        parts.append(set(mine))
        return [mine, other]

    both = buffer_of(loaded, way, share, rank=0, count=2)
    both.write(3)
    assert parts == [{1}, {0}]  # each part is written once
    assert both.kept() == alone.kept()
    assert read(both, 48, 96) == read(alone, 48, 96)


def test_who_trains_draws_and_drops_as_if_nothing_had_been_written(loaded):
    model = loaded.model.train()
    model.model.layers[0].eval()  # a part that its owner keeps so
    settings, modes = model.generation_config, [m.training for m in model.modules()]
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    buffer_of(loaded, Sample()).write(0)
    assert torch.equal(torch.rand(3), expected)
    assert model.generation_config is settings
    assert [m.training for m in model.modules()] == modes
    loaded.model.eval()


def test_every_part_and_step_draws_its_own_and_the_same_again(loaded):
    """From one opening, so that nothing else tells the texts apart."""
    drawn = []
    for step in (0, 0, 3):
        buffer = buffer_of(loaded, Sample(temperature=1.5))
        buffer.samples = TEXTS[:1]
        buffer.write(step)
        drawn.append([sample.text for sample in buffer._texts])
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][:8] != drawn[0][16:]  # the second part


def test_a_checkpoint_brings_the_buffer_back_whole(loaded):
    one, other = buffer_of(loaded), buffer_of(loaded)
    one.write(3)
    talk = Conversation(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        joint=" ",
        goes_on=True,
    )
    one._texts[:2] = [
        TextSample(talk, "chat", "c", weight=0.25, own=True),
        TextSample(Fragment("cut "), "text", "f"),
    ]
    other.take(one.kept())
    assert other.kept() == one.kept()
    brought = other._texts[0].text
    assert isinstance(brought, Conversation) and brought.messages == talk.messages
    assert (brought.joint, brought.goes_on) == (" ", True)
    assert not ends(other._texts[1].text)
    assert read(other, 48, 96) == read(one, 48, 96)


def test_lives_are_whole_but_for_the_first_and_the_last():
    assert list(lives(0, 7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(lives(4, 7, 3)) == [(4, 6), (6, 7)]
    assert list(lives(7, 7, 3)) == []
    # a buffer of three steps in an order of two, and neither
    assert list(lives(1, 7, 3, 2)) == [(1, 2), (2, 3), (3, 4), (4, 6), (6, 7)]
    assert list(lives(0, 7, 0, 0)) == [(0, 7)]
