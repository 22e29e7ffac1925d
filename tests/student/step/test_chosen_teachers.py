from dataclasses import replace

import torch

from fuse.routers.router import LearnableRouter
from fuse.weigher import Weigher

PARTS = ((0, 1), (1, 3))


def some(batch, first, last):
    return replace(
        batch,
        ids=batch.ids[first:last],
        mask=batch.mask[first:last],
        spans=batch.spans[first:last],
        texts=batch.texts[first:last],
    )


def test_whom_a_token_is_learned_from_is_drawn_alike_however_texts_are_gathered(school):
    teachers = 2
    router = LearnableRouter(school.lesson(None).capture.hidden_size, teachers)
    lesson = school.lesson("projector", weigher=Weigher(router, choice="sampled"))
    batch = school.batch(3)

    def drawn(first, last):
        part = some(batch, first, last)
        numbers = range(70 + first, 70 + last)
        with torch.no_grad():
            result = lesson.distiller(part, lesson.panel(part), numbers=numbers)
        return result.routing

    together = drawn(0, 3)
    assert together.sum(-1)[batch.has_text].eq(1).all()
    assert set(together.unique().tolist()) == {0, 1}  # one each, and not always one
    for first, last in PARTS:
        assert torch.equal(drawn(first, last), together[first:last])


def test_a_router_learns_though_one_teacher_is_chosen(school):
    torch.manual_seed(0)
    router = LearnableRouter(school.lesson(None).capture.hidden_size, 2)
    lesson = school.lesson("adapter", weigher=Weigher(router, choice="hard"))
    batch = school.batch()
    result = lesson.distiller(batch, lesson.panel(batch))
    assert set(result.routing.unique().tolist()) <= {0, 1}
    assert result.soft[batch.has_text].eq(0.5).all()  # as routers begin
    for term in ("outcome", "teacher_loss"):
        if term in result.terms:
            assert result.terms[term].isfinite()
    result.loss.backward()
    assert float(router.score.bias.grad.abs().sum()) > 0
