"""Every site by every distance: a student that is its teacher, and one turned round."""

from dataclasses import replace

import pytest
import torch

from align.sizes import Sizes
from plugins.contracts.step import step_context
from student.match import DISTANCES, Match
from student.match.distance import of_rows

SITES = [
    {"site": "keys"},
    {"site": "values"},
    *({"site": "hidden", "state": s} for s in ("given", "residual", "normed", "both")),
    {"site": "embeddings"},
    {"site": "attention"},
]
FEATURES = sorted(n for n, made in DISTANCES.items() if not of_rows(made))
ROWS = sorted(n for n, made in DISTANCES.items() if of_rows(made))
PAIRS = [
    (site, distance)
    for site in SITES
    for distance in (ROWS if site["site"] == "attention" else FEATURES)
]
NEVER_0 = "contrastive"
SIZES = Sizes(
    layers=2, heads=1, k_dim=8, v_dim=8, hidden_size=8, query_heads=4, embedding_size=8
)


def twins(change=lambda x: x):
    """A context whose teachers are the student, changed."""
    ctx = step_context(size=9)[0]

    def of(x):
        return change(x.detach()).requires_grad_()  # a term must detach what it reads

    return replace(
        ctx,
        relations=[
            replace(r, teacher_k=of(r.student_k), teacher_v=of(r.student_v))
            for r in ctx.relations
        ],
        inside={
            kind: [replace(s, teacher=of(s.student)) for s in sides]
            for kind, sides in ctx.inside.items()
        },
        heads=[
            replace(h, teacher=h.student.detach().clone().requires_grad_())
            for h in ctx.heads
        ],
    )


def term(site, distance):
    made = Match(**site, distance=distance)
    made.meet(SIZES, dict.fromkeys(("gpt2", "qwen"), SIZES))
    return made


@pytest.mark.parametrize(("site", "distance"), PAIRS)
def test_a_student_that_is_its_teacher_costs_nothing_and_no_teacher_moves(
    site, distance
):
    ctx = twins()
    value = term(site, distance)(ctx)
    assert (abs(float(value.detach())) < 1e-5) == (distance != NEVER_0)
    if value.requires_grad:
        value.backward()
    teachers = [r.teacher_k for r in ctx.relations] + [h.teacher for h in ctx.heads]
    teachers += [s.teacher for sides in ctx.inside.values() for s in sides]
    assert all(teacher.grad is None for teacher in teachers)


@pytest.mark.parametrize("site", [s for s in SITES if s["site"] != "attention"])
def test_a_turned_student_costs_nothing_by_relations_or_through_a_rotation(site):
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    ctx = twins(lambda x: x @ rotation)
    for distance in ("cka", "gram"):
        related = term(site, distance)
        related.fit([ctx])
        assert float(related(ctx).detach()) == pytest.approx(0, abs=1e-5)
    plain = float(term(site, "mse")(ctx).detach())
    assert plain > 0.1
    turned = Match(**site, distance="mse", projector="orthogonal")
    turned.meet(SIZES, dict.fromkeys(("gpt2", "qwen"), SIZES))
    turned.fit([ctx])
    assert float(turned(ctx).detach()) < 1e-4
