"""Two real teachers and a student who is compared with them at one place."""

from dataclasses import replace

import pytest

from student.config import LossConfig
from student.distiller import WeightedObjective
from student.match import Match
from student.step.context import introduce

TAUGHT = ("gpt2-prose", "qwen-code")


@pytest.fixture
def compared_at(school):
    """Makes a lesson whose terms need some things alone: given one or more, and what
    the teachers are asked for."""

    def made(need, taught=TAUGHT, model=None, **asked_for):
        loss = LossConfig(eta_outcome=0.0)
        lesson = school.lesson("adapter", taught, loss, model=model)
        distiller, maps = lesson.distiller, lesson.bridge.teachers
        distiller._contexts = replace(
            distiller._contexts,
            needs=frozenset({need} if isinstance(need, str) else need),
            compares=False,
            maps={teacher.name: teacher.layer_map for teacher in maps},
        )
        wanted = {"attention": False, "own_loss": False, **asked_for}
        lesson.panel._asked = [
            replace(asked, **wanted) for asked in lesson.panel._asked
        ]
        distiller.eval()
        return lesson

    return made


@pytest.fixture
def gradients_of(school):
    """Gradients of one step by parameter, without and with gradient checkpointing."""

    def found(lesson, batch, rows=None, **options):
        views = lesson.panel(batch, rows)
        distiller, model, gradients = lesson.distiller, lesson.model, []
        for checkpointing in (False, True):
            term = Match(**options)
            sizes = {t.name: t.sizes for t in lesson.panel.teachers}
            introduce({"m": term}, lesson.capture.sizes, sizes)
            distiller._objectives = {"m": WeightedObjective(1.0, term)}
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.train()
            distiller.zero_grad()
            distiller(batch, views, rows).loss.backward()
            named = model.named_parameters()
            gradients.append(
                {n: p.grad.clone() for n, p in named if p.grad is not None}
            )
        model.gradient_checkpointing_disable()
        return gradients

    return found
