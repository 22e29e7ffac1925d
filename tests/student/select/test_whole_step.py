"""A step of selected places is one mean, however its texts are cut into passes."""

from dataclasses import replace

import pytest
import torch

from fuse.signals import signals_needed
from student.config import LossConfig
from student.distiller import WeightedObjective
from student.loop.batches import BatchMaker
from student.objective import needs_of
from student.output_config import OutputConfig
from student.select import SELECTORS, Selection
from student.select.choice import ON
from student.select.passes import shared
from student.select.selection import Selecting
from student.terms.key_value import OBJECTIVES
from tests.student import test_step_mean as steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TEACHERS = steps.TEACHERS
DOMAINS = ("code", "prose")
own_school, pieces = steps.own_school, steps.pieces
OUTPUT = OutputConfig(
    kd=1.0,
    hard_labels=0.5,
    likelihood=1.0,
    projected_kl=1.0,
    sequence_ot=1.0,
    teachers={"kd": ["twin"], "sequence_ot": ["twin"]},
)
TERMS = ("ce", "kv_k", "cosine", "attention_kl", "relation_k")
OUTPUTS = ("kd", "likelihood", "projected_kl", "sequence_ot")
SOME = {
    "uncertain": {"threshold": 3.5},
    "excess_loss": {"threshold": 0.2},
    "unsure_student": {"alpha": 3.0, "gamma": 0.5},
    "confident_teacher": {"strength": 2.0},
}


def selection_of(chosen, on=ON):
    """Selectors by kind with their options."""
    return Selection(
        {
            kind: Selecting(SELECTORS[kind](TEACHERS, DOMAINS, **options), on, options)
            for kind, options in chosen.items()
        }
    )


@pytest.fixture(scope="module")
def lesson(own_school):
    """In float64, with every term and all that is needed for them."""
    made = own_school.lesson("adapter", TEACHERS, LossConfig(eta_outcome=0.0))
    lesson = steps.double(made, own_school)
    distiller = lesson.distiller
    distiller._config = LossConfig(eta_outcome=0.0, router_signal="outcome")
    distiller._regularizer = None
    terms = {name: OBJECTIVES[name]() for name in (*TERMS, *OUTPUTS)}
    distiller._objectives = {n: WeightedObjective(1.0, t) for n, t in terms.items()}
    distiller._contexts = replace(
        distiller._contexts,
        needs=needs_of(terms),
        compares=True,
        output=steps.plan_of(lesson, own_school, OUTPUT),
    )
    return lesson


def step(lesson, school, pieces, size, passes, *, selection, number=1):
    """The gradient of an optimiser step as the loop takes it, and its terms."""
    distiller = lesson.distiller
    distiller.selection = selection
    needs = frozenset() if selection is None else selection.needs
    distiller.signals = signals_needed(distiller.weigher) | needs
    maker = BatchMaker(
        samples=pieces,
        encode=school.encode,
        views=lesson.panel,
        seed=3,
        rows=4,
        batch_size=size,
        first_sample=0,
        device=torch.device("cpu"),
        rank=0,
        world_size=1,
        survey=distiller.survey,
    )
    made, terms = map(maker.by_step(passes), range(passes)), {}
    distiller.zero_grad()
    for each, share in shared(
        made, distiller, number, passes=passes, total=list, anywhere=bool
    ):
        domains = [sample.domain for sample in each.samples]
        result = distiller(
            each.batch, each.views, each.rows, number, False, share, domains
        )
        result.loss.backward()
        for name, value in result.terms.items():
            terms[name] = terms.get(name, 0.0) + float(value)
    named = distiller.named_parameters()
    return {n: p.grad.clone() for n, p in named if p.grad is not None}, terms


@pytest.mark.parametrize("weights", ["fixed", "by layer"])
def test_a_step_has_one_gradient_however_it_is_cut(lesson, own_school, pieces, weights):
    lesson.distiller.weigher = steps.weigher_of(lesson, weights)
    unequal = [pieces[place] for place in (0, 1, 4, 7)]
    _, every = step(lesson, own_school, unequal, 4, 1, selection=None)
    (whole, terms), *others = (
        step(lesson, own_school, unequal, *cut, selection=selection_of(SOME))
        for cut in steps.SPLITS.values()
    )
    assert set(terms) == {*TERMS, *OUTPUTS}
    for name, value in terms.items():
        assert value != pytest.approx(every[name], rel=1e-5), name
    for gradient, cut in others:
        assert steps.apart(whole, gradient) < 1e-6
        assert cut == pytest.approx(terms, rel=1e-5)


class OneDomainApart:
    """Of the texts of one domain one teacher counts half."""

    needs = frozenset({"domain"})

    def __call__(self, candidates):
        weight = torch.ones(candidates.known.shape)
        code = candidates.domain_of_text(("prose", "code")) == 1
        weight[code, :, 0] = 0.5
        return weight


def test_passes_in_which_teachers_select_alike_are_counted_as_the_others(
    lesson, own_school, pieces
):
    """What a term of some teachers weighs follows from the routing in all or none."""
    lesson.distiller.weigher = steps.weigher_of(lesson, "by layer")
    apart = Selection({"half": Selecting(OneDomainApart(), ON, {})})
    unequal = [pieces[place] for place in (0, 1, 4, 7)]
    unequal = [
        replace(piece, domain="code" if number == 0 else "prose")
        for number, piece in enumerate(unequal)
    ]
    (_, whole), (_, cut) = (
        step(lesson, own_school, unequal, size, 4 // size, selection=apart)
        for size in (4, 1)
    )
    assert cut == pytest.approx(whole, rel=1e-5)
