"""What ``output.weighting`` shares out inside a term, a router gives before it."""

import pytest
import torch

from align.views import TeacherView
from fuse.routers.confidence import ConfidenceRouter
from fuse.weigher import Weigher
from student.output.across.signals import Sources, signals_of
from student.output_config import OutputConfig
from student.terms.next_token import OUTPUT_BUILT_IN
from tests.student.terms.test_next_token import context, output, tokens


def routed(teachers, by, per_character=False):
    """(B, T) of each teacher, by the router."""
    router = ConfidenceRouter(3, 2, by=by, per_character=per_character)
    views = [
        TeacherView(name=f"t{m}", kv=None, alignment=None, causal=None, output=said)
        for m, said in enumerate(teachers)
    ]
    sources = Sources(batch=tokens(), views=views, vocabulary="one")
    told = signals_of(router.needs, sources)
    batch = tokens()
    available = batch.has_text[..., None].expand(2, 5, 2)
    hidden = torch.zeros(2, 5, 3)
    weights = Weigher(router)(hidden, batch.mask, available, told)
    return list((2 * weights).unbind(-1))  # the two weigh 2 together below


@pytest.mark.parametrize("kind", ["cross_entropy", "entropy", "max_probability"])
@pytest.mark.parametrize("term", ["kd", "likelihood"])
def test_the_router_confidence_weighs_as_output_weighting_does(kind, term):
    vocabulary = "one" if term == "kd" else "another"
    teachers = [output(m, vocabulary=vocabulary) for m in (1, 2)]
    options = {"kd": 1} if term == "kd" else {"likelihood": 1}
    today = context(OutputConfig(weighting=kind, **options), *teachers)
    by_router = context(
        OutputConfig(**options),
        *teachers,
        weights=routed(teachers, kind, term == "likelihood" and kind[0] == "c"),
    )
    even = context(OutputConfig(**options), *teachers)
    expected, found, plain = (
        OUTPUT_BUILT_IN[term](ctx) for ctx in (today, by_router, even)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert abs(plain - expected) > 1e-3 * expected
