"""Steps in which every text is learned from the teachers that are chosen for it."""

from dataclasses import replace

import pytest
import torch

from align.reading import ASKING
from fuse.beforehand.asking import Asking, together
from fuse.beforehand.choose import TextChoice
from fuse.routers.label import LabelRouter
from fuse.routers.router import FixedRouter
from fuse.weigher import Weigher
from student.config import LossConfig
from student.loop.batches import BatchMaker
from student.places import Share
from tests.student.conftest import RememberedCapture

NAMES = ("gpt2-prose", "qwen-code")
LABELS = {"prose": "gpt2-prose", "code": "qwen-code"}
LOSS = LossConfig(outcome_every=1, gamma_kl=0.1)


def maker(school, lesson, choose=None, size=4):
    return BatchMaker(
        samples=[replace(s, text=s.text[:70]) for s in school.samples[:8]],
        encode=school.encode,
        views=lesson.panel,
        seed=3,
        rows=4,
        batch_size=size,
        first_sample=0,
        device=torch.device("cpu"),
        rank=0,
        world_size=1,
        survey=lesson.distiller.survey,
        choose=choose,
    )


def step(lesson, made, passes=1):
    """Gradients and terms of an optimiser step."""
    distiller, terms = lesson.distiller.eval(), {}
    distiller.zero_grad()
    read = made.by_step(passes)
    for number in range(passes):
        batch = read(number)
        share = Share(batch.places, batch.counts, batch.step)
        domains = [sample.domain for sample in batch.samples]
        result = distiller(
            batch.batch, batch.views, batch.rows, 0, False, share, domains
        )
        result.loss.backward()
        for name, value in result.terms.items():
            terms[name] = terms.get(name, 0.0) + value.double()
    grads = {n: p.grad for n, p in distiller.named_parameters() if p.grad is not None}
    return terms, {name: grad.clone() for name, grad in grads.items()}


def labelled(school, kind):
    weigher = Weigher(LabelRouter(1, 2, domains=LABELS), "sample")
    return school.lesson(kind, NAMES, LOSS, weigher=weigher)


def by_label(choice="hard"):
    return TextChoice(LabelRouter(1, 2, domains=LABELS), choice, NAMES, seed=0)


@pytest.mark.parametrize("kind", ["adapter", "projector", "latent"])
def test_teachers_that_rest_teach_as_if_they_had_read_and_weighed_nothing(school, kind):
    """Outcome included."""
    lesson = labelled(school, kind)
    asked = step(lesson, maker(school, lesson, by_label()))
    every = step(lesson, maker(school, lesson))
    terms = ("ce", "kv_k", "kv_v", "cosine", "attention_kl", "outcome")
    for name in terms:  # Z's own losses are of what each teacher was asked
        torch.testing.assert_close(asked[0][name], every[0][name], rtol=1e-4, atol=1e-6)
    for name, grad in every[1].items():
        if "z." not in name and "bridge" not in name:
            torch.testing.assert_close(asked[1][name], grad, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", ["adapter", "projector"])
def test_softly_a_teacher_without_weight_does_not_run_and_nothing_changes(
    school, kind, monkeypatch
):
    """Bit for bit, in a batch that is read whole by the teacher of all its texts."""
    lesson, runs = labelled(school, kind), []
    prose = [s for s in school.samples if s.domain == "prose"][:4]
    read = RememberedCapture.__call__

    def counted(self, *ids, **asked):
        runs.append(self)
        return read(self, *ids, **asked)

    monkeypatch.setattr(RememberedCapture, "__call__", counted)

    def taught(choose):
        runs.clear()
        result = step(lesson, replace(maker(school, lesson, choose), samples=prose))
        return result, [school.teacher(name).capture in runs for name in NAMES]

    (every, all_run), (asked, some_run) = taught(None), taught(by_label("soft"))
    assert (all_run, some_run) == ([True, True], [True, False])
    for before, now in zip(every, asked, strict=True):
        assert all(torch.equal(value, now[name]) for name, value in before.items())


def test_a_step_is_one_mean_however_its_texts_are_cut_into_passes(school):
    lesson = labelled(school, "adapter")
    whole = step(lesson, maker(school, lesson, by_label(), size=4))
    cut = step(lesson, maker(school, lesson, by_label(), size=1), passes=4)
    for name, value in whole[0].items():
        torch.testing.assert_close(cut[0][name], value, rtol=1e-4, atol=1e-6)
    for name, grad in whole[1].items():
        torch.testing.assert_close(cut[1][name], grad, rtol=2e-3, atol=2e-5)


def test_processes_and_passes_choose_alike(school):
    lesson = labelled(school, "adapter")
    draw = TextChoice(FixedRouter(1, 2), "sampled", NAMES, seed=5)
    whole = maker(school, lesson, draw).order(0)
    for rank in (0, 1):
        shared = replace(
            maker(school, lesson, draw, size=2), rank=rank, world_size=2
        ).order(0)
        for reading, part in zip(whole.readings, shared.readings, strict=True):
            rows = [r - 2 * rank for r in reading.some.rows.tolist() if r // 2 == rank]
            assert part.some.rows.tolist() == rows


def test_saved_time_is_reckoned_by_what_a_teacher_took(school):
    lesson = labelled(school, "adapter")
    order = maker(school, lesson, by_label()).order(0)
    share = len(order.readings[0].some.rows) / 4
    assert 0 < share < 1
    asking = Asking()
    asking.note(order.readings, {ASKING + NAMES[0]: 4 * share * 0.5})
    line = asking.take(steps=2)
    assert line["asked"] == {NAMES[0]: share, NAMES[1]: 1 - share}
    assert line["saved_s"] == pytest.approx(4 * (1 - share) * 0.5 / 2)
    assert asking.take(steps=1) == {}
    assert together({ASKING + "a": 1.0, "teachers": 2.0, "align": 1.0}) == {
        "teachers": 3.0,
        "align": 1.0,
    }
