"""What terms read: a teacher that does not bring it is left out of their means."""

from dataclasses import replace

import pytest
import torch

from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner
from fuse.weigher import FixedWeigher
from student.places import Share
from teacher.panel import TeacherPanel
from tests.student.conftest import DECODERS

UNEQUAL = [3.0, 1.0]


@pytest.fixture
def both(school):
    """Both teachers' readings and views; of the first neither KV nor attention."""
    teachers = [school.teacher(name) for name in DECODERS]
    panel = TeacherPanel(
        teachers,
        CharIoUAligner(),
        CausalCharIoUAligner(),
        kv=DECODERS[1:],
        attention=True,
    )
    batch = school.batch()
    rows = (batch.mask.sum(1, keepdim=True) * torch.linspace(0.2, 0.9, 4)).long()
    readings, views = panel.read(batch), panel(batch, rows)
    readings[0] = replace(readings[0], attention=False)
    views[0] = replace(views[0], attention=None)
    assert views[0].kv is None and readings[1].kv and not readings[0].kv
    return batch, rows, readings, views


@pytest.mark.parametrize("kind", ["adapter", "projector", "latent"])
def test_who_brings_nothing_counts_for_nothing_in_pass_and_step(
    school, only, both, kind
):
    """Every mean is that of the teacher who is met, whatever weight the other has."""
    on = {"lambda_k": 1.0, "relation_k": 1.0, "gamma_kl": 1.0, "eta_outcome": 1.0}
    lesson = school.lesson(kind, DECODERS[1:], only(**on))
    batch, rows, readings, views = both
    expected = lesson.distiller(batch, views[1:], rows)
    assert {"kv_k", "relation_k", "attention_kl", "outcome"} <= expected.terms.keys()
    lesson.distiller.weigher = FixedWeigher(UNEQUAL)
    places, counts = lesson.distiller.survey(batch, readings, rows)
    assert counts.terms["kv_k"] < (float(places.counted.sum()),)
    for share in (None, Share(places, counts, counts)):
        found = lesson.distiller(batch, views, rows, share=share)
        assert found.teachers == DECODERS and found.routing[..., 0].max() == 0.75
        torch.testing.assert_close(found.terms, expected.terms, rtol=1e-4, atol=1e-6)


def test_without_a_bridge_terms_on_attention_and_routing_go_on(school, only, both):
    lesson = school.lesson("adapter", DECODERS[1:], only(gamma_kl=1.0))
    batch, rows, _, views = both
    expected = lesson.distiller(batch, views[1:], rows)
    views = [replace(view, kv=None) for view in views]
    distiller = lesson.distiller
    distiller.bridge, distiller.weigher = None, FixedWeigher(UNEQUAL)
    distiller._contexts = replace(distiller._contexts, bridge=None)
    found = distiller(batch, views, rows)
    torch.testing.assert_close(found.terms, expected.terms, rtol=1e-4, atol=1e-6)
    assert not distiller.wants_outcome(0)
