"""One optimiser step is one mean, however its samples are cut into passes."""

from dataclasses import replace

import pytest
import torch

from align.text.documents import TextSample
from experiments.assemble.outputs import digest, spelling
from fuse.routers.router import LearnableRouter
from fuse.routers.similarity import SimilarityRouter
from fuse.routing_loss import EntropyRegularizer
from fuse.weigher import FixedWeigher, Weigher
from student.config import LossConfig
from student.distiller import WeightedObjective
from student.loop.batches import BatchMaker
from student.loop.data_order import sample_indices
from student.match import Match
from student.objective import needs_of
from student.output import Lexicon, Vocabulary, common_pieces
from student.output_config import OutputConfig
from student.places import Share
from student.step_outputs import OutputPlan
from student.terms.key_value import OBJECTIVES
from teacher.loading.models import LoadedModel
from teacher.output_head import linear_head
from teacher.panel import LiveTeacher, TeacherPanel
from tests.everyday import some_daily
from tests.student.conftest import RememberedCapture, School

TEACHERS = ("twin", "gpt2-prose", "qwen-code")
LENGTHS = (150, 9, 140, 17, 3, 120, 6, 90)
KV_TERMS = ("kv_k", "kv_v", "cosine")
SPLITS = {"4 x 1": (4, 1), "2 x 2": (2, 2), "1 x 4": (1, 4)}
OUTPUT = {
    "kd": OutputConfig(
        kd=1.0, hard_labels=0.5, teachers={"kd": ["twin"]}, temperature=2.0
    ),
    "hybrid_ot": OutputConfig(hybrid_ot=1.0, weighting="entropy"),
    "sequence_ot": OutputConfig(sequence_ot=1.0, teachers={"sequence_ot": ["twin"]}),
    "likelihood": OutputConfig(likelihood=1.0, likelihood_ends="blanks"),
    "projected_kl": OutputConfig(projected_kl=1.0, projected_chains=True),
}


@pytest.fixture(scope="module")
def own_school(school):
    """A school of float64, with a teacher of the student's vocabulary."""
    made = School(school.folders, school.samples)
    twin = made.student(seed=7).eval().requires_grad_(False)
    loaded = LoadedModel(twin, made.tokenizer, "decoder", "twin")
    made.live["twin"] = LiveTeacher("twin", loaded, RememberedCapture(twin))
    for name in TEACHERS:
        made.teacher(name).loaded.model.double()
    return made


@pytest.fixture(scope="module")
def pieces(school):
    """Eight texts of very unequal lengths."""
    return [
        TextSample(s.text[10 : 10 + length].strip() or "x", s.domain, f"{length}")
        for s, length in zip(school.samples, LENGTHS, strict=False)
    ]


def double(lesson, school):
    """A lesson in float64 whose teachers bring their outputs."""
    lesson.distiller.eval()
    lesson.model.double()
    panel = lesson.panel
    lesson.panel = TeacherPanel(
        panel.teachers,
        panel._aligner,
        panel._causal,
        layers={t.name: t.layer_map.needed for t in lesson.bridge.teachers},
        outputs=TEACHERS,
        attention=True,
        own_loss=True,
    )
    return lesson


def plan_of(lesson, school, output):
    head, spelled = linear_head(lesson.capture), spelling(school.tokenizer)
    own, lexicons = Vocabulary.of(spelled, head.size), {}
    for one in lesson.panel.teachers:
        theirs = spelling(one.tokenizer)
        pieces = common_pieces(spelled, theirs, head.size, one.head.size)
        other = Vocabulary.of(theirs, one.head.size)
        lexicons[one.name] = Lexicon(own, other, pieces)
    return OutputPlan(head, digest(school.tokenizer), output, lexicons=lexicons)


def step(lesson, school, pieces, size, passes, number=0):
    """The gradient of one optimiser step, and its terms."""
    distiller = lesson.distiller
    cpu = torch.device("cpu")
    maker = BatchMaker(
        samples=pieces,
        encode=school.encode,
        views=lesson.panel,
        seed=3,
        rows=4,
        batch_size=size,
        first_sample=0,
        device=cpu,
        rank=0,
        world_size=1,
        survey=distiller.survey,
    )
    batch_of, terms = maker.by_step(passes), {}
    distiller.zero_grad()
    for index in range(passes):
        train_batch = batch_of(index)
        share = Share(train_batch.places, train_batch.counts, train_batch.step)
        found = distiller(
            train_batch.batch, train_batch.views, train_batch.rows, number, False, share
        )
        found.loss.backward()
        for name, value in found.terms.items():
            terms[name] = terms.get(name, 0.0) + float(value)
    moved = {
        name: p.grad.detach().clone()
        for name, p in distiller.named_parameters()
        if p.grad is not None
    }
    return moved, terms


def apart(one, other):
    """Relative difference of two gradients over all parameters."""
    assert one.keys() == other.keys()
    far = sum(float((one[n] - other[n]).square().sum()) for n in one)
    return (far / sum(float(g.square().sum()) for g in one.values())) ** 0.5


def check(lesson, school, pieces, number=1):
    unequal = [pieces[place] for place in (0, 1, 4, 7)]  # 150, 9, 3 and 90 characters
    (whole, terms), *others = (
        step(lesson, school, unequal, *split, number) for split in SPLITS.values()
    )
    assert any(bool(gradient.any()) for gradient in whole.values())
    for gradient, found in others:
        print(f"{apart(whole, gradient):.1e}", end=" ")
        assert apart(whole, gradient) < 1e-6
        assert found == pytest.approx(terms, rel=1e-5)
    return terms


def routed(lesson, per_layer=False):
    """A router that has an opinion."""
    width, teachers = lesson.capture.hidden_size, len(lesson.bridge.teachers)
    made = [LearnableRouter(width, teachers) for _ in range(lesson.capture.num_layers)]
    torch.manual_seed(5)
    weigher = Weigher(made if per_layer else made[0])
    for parameter in weigher.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return weigher


def only_term(name):
    return {name: WeightedObjective(1.0, OBJECTIVES[name]())}


@pytest.fixture(scope="module")
def lesson_of(own_school):
    """A lesson by its bridge, made once."""
    made = {}

    def of(kind):
        if kind not in made:
            lesson = own_school.lesson(kind, TEACHERS, LossConfig(eta_outcome=0.0))
            made[kind] = double(lesson, own_school)
        quiet = LossConfig(eta_outcome=0.0, router_signal="outcome")
        made[kind].distiller._config = quiet
        made[kind].distiller._regularizer = None
        return made[kind]

    return of


def prepare(lesson, school, name, weigher, output=None):
    """Leave one term, and what it needs."""
    distiller = lesson.distiller
    distiller._objectives = only_term(name)
    distiller._contexts = replace(
        distiller._contexts,
        needs=needs_of({name: distiller._objectives[name].objective}),
        compares=name in KV_TERMS,
        output=None if output is None else plan_of(lesson, school, output),
    )
    distiller.weigher = weigher


def weigher_of(lesson, kind):
    if kind == "fixed":
        return FixedWeigher([1.0, 2.0, 3.0])
    return routed(lesson, kind == "by layer")


WEIGHTS = ("fixed", "routed", "by layer")
NAMES = ("ce", *KV_TERMS, "attention_kl", "relation_k", "relation_v")
CUT = [("adapter", name, weights) for name in NAMES for weights in WEIGHTS]
CUT += [("projector", name, weights) for name in KV_TERMS for weights in WEIGHTS]


@pytest.mark.parametrize(
    ("kind", "name", "weights"),
    some_daily(CUT, lambda case: case[2] == "fixed" or case[1] == "kv_k", "-".join),
)
def test_a_step_has_one_gradient_however_it_is_cut(
    own_school, lesson_of, pieces, kind, name, weights
):
    lesson = lesson_of(kind)
    prepare(lesson, own_school, name, weigher_of(lesson, weights))
    check(lesson, own_school, pieces)


@pytest.mark.parametrize("weights", ["fixed", "by layer"])
@pytest.mark.parametrize(
    "options",
    [
        {"site": "keys", "distance": "gram"},
        {"site": "values", "distance": "mse", "projector": "linear"},
    ],
    ids=lambda options: options["distance"],
)
def test_a_match_has_one_gradient_however_a_step_is_cut(
    own_school, lesson_of, pieces, options, weights
):
    lesson = lesson_of("adapter")
    term = Match(layers="random:1", layer_weights="depth", **options)
    prepare(lesson, own_school, "ce", weigher_of(lesson, weights))
    distiller, bridge = lesson.distiller, lesson.bridge
    term.meet(
        bridge.student, {teacher.name: teacher.sizes for teacher in bridge.teachers}
    )
    distiller._objectives = {"m": WeightedObjective(1.0, term)}
    distiller._contexts = replace(distiller._contexts, needs=needs_of({"m": term}))
    check(lesson, own_school, pieces)


@pytest.mark.parametrize(
    "weights", some_daily(["fixed", "by layer"], lambda weights: weights == "fixed")
)
@pytest.mark.parametrize("name", list(OUTPUT))
def test_a_step_has_one_gradient_of_outputs_however_it_is_cut(
    own_school, lesson_of, pieces, name, weights
):
    lesson = lesson_of("adapter")
    prepare(lesson, own_school, name, weigher_of(lesson, weights), OUTPUT[name])
    check(lesson, own_school, pieces)


@pytest.mark.parametrize("weights", ["routed", "by layer"])
@pytest.mark.parametrize("kind", ["adapter", "latent"])
def test_bridge_and_router_have_one_gradient_however_a_step_is_cut(
    own_school, lesson_of, pieces, kind, weights
):
    """Outcome, the teachers' own losses, entropy, Z's reconstruction and agreement."""
    lesson = lesson_of(kind)
    prepare(lesson, own_school, "kv_k", weigher_of(lesson, weights))
    distiller = lesson.distiller
    distiller._config = LossConfig(outcome_every=1, router_signal="both")
    distiller._regularizer = EntropyRegularizer("diverse", 0.5)
    terms = check(lesson, own_school, pieces)
    assert {"kv_k", "outcome", "teacher_loss", "entropy"} <= terms.keys()
    of_latent = {"z_reconstruction", "z_agreement"}
    assert of_latent & terms.keys() == (of_latent if kind == "latent" else set())


def test_a_pass_alone_is_its_own_step(own_school, lesson_of, pieces):
    """With fixed weights the value of every term is the mean over its places."""
    lesson = lesson_of("projector")
    every = dict(OBJECTIVES)
    weigher = FixedWeigher([1.0, 2.0, 0.0])
    config = OutputConfig(
        teachers={"kd": ["twin"], "sequence_ot": ["twin"]}, hard_labels=0.5
    )
    prepare(lesson, own_school, "ce", weigher, config)
    distiller = lesson.distiller
    terms = {n: e() for n, e in every.items()}
    distiller._objectives = {n: WeightedObjective(1.0, t) for n, t in terms.items()}
    distiller._contexts = replace(
        distiller._contexts, needs=needs_of(terms), compares=True
    )
    cpu = torch.device("cpu")
    train_batch = BatchMaker(
        samples=pieces,
        encode=own_school.encode,
        views=lesson.panel,
        seed=3,
        rows=4,
        batch_size=8,
        first_sample=0,
        device=cpu,
        rank=0,
        world_size=1,
        survey=distiller.survey,
    ).make(0)
    share = Share(train_batch.places, train_batch.counts, train_batch.step)
    arguments = train_batch.batch, train_batch.views, train_batch.rows, 1, False
    found = distiller(*arguments, share).terms
    alone = distiller(*arguments).terms
    for name in every:
        torch.testing.assert_close(found[name], alone[name], rtol=1e-6, atol=0)


class Plain:
    """A stranger's term: the mean of squared logits over a pass."""

    needs = frozenset()

    def __call__(self, ctx):
        return ctx.logits.float().square().mean()


def test_a_term_that_does_not_count_weighs_by_predicted_tokens(
    own_school, lesson_of, pieces
):
    lesson = lesson_of("adapter")
    prepare(lesson, own_school, "ce", FixedWeigher([1.0] * 3))
    lesson.distiller._objectives = {"mine": WeightedObjective(1.0, Plain())}
    _, terms = step(lesson, own_school, pieces, 4, 2)
    means, predicted = [], []
    for half in (0, 1):
        order = [pieces[i] for i in sample_indices(8, 3, 4 * half, 4)]
        batch = own_school.encode([piece.text for piece in order])
        with torch.no_grad():
            logits = lesson.model(batch.ids, attention_mask=batch.mask.long()).logits
        means.append(float(logits.float().square().mean()))
        predicted.append(float(batch.predicted[:, 1:].sum()))
    expected = sum(m * n for m, n in zip(means, predicted, strict=True))
    assert terms["mine"] == pytest.approx(expected / sum(predicted), rel=1e-4)


@pytest.mark.parametrize("kind", ["adapter", "projector"])
def test_one_teacher_of_one_gets_the_same_bits_whoever_weighs_it(school, pieces, kind):
    """A list of one teacher is that teacher: no weight is a little less than 1."""
    gradients = []
    for weigher in (None, FixedWeigher([0.3]), "similarity", "routed"):
        lesson = school.lesson(kind, ["gpt2-prose"], LossConfig(eta_outcome=0.0))
        lesson.distiller.eval()
        if weigher == "similarity":
            weigher = Weigher(SimilarityRouter(lesson.capture.hidden_size, 1))
        if weigher == "routed":
            weigher = routed(lesson)
        lesson.distiller.weigher = weigher or Single()
        moved, _ = step(lesson, school, pieces, 4, 2)
        gradients.append(moved)
    for name, expected in gradients[0].items():
        assert name.startswith(("student", "bridge"))
        for other in gradients[1:]:
            assert torch.equal(other[name], expected), name


class Single(torch.nn.Module):
    """All to the only teacher there is."""

    def forward(self, hidden, mask, available):
        return available.float()


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("ce", "fixed"),
        ("kv_k", "by layer"),
        ("cosine", "fixed"),
        *some_daily([(name, "fixed") for name in OUTPUT], lambda case: case[0] == "kd"),
    ],
)
def test_a_text_that_weighs_two_counts_as_if_it_were_there_twice(
    own_school, lesson_of, pieces, name, weights
):
    lesson = lesson_of("adapter")
    prepare(lesson, own_school, name, weigher_of(lesson, weights), OUTPUT.get(name))
    first, second, third = (pieces[place] for place in (0, 3, 7))
    again = [first, first, second, third]
    expected, terms = step(lesson, own_school, again, 4, 1)
    heavy = [replace(first, weight=0.5), *(replace(p, weight=0.25) for p in again[2:])]
    for size, passes in ((3, 1), (1, 3)):
        found, parts = step(lesson, own_school, heavy, size, passes)
        assert apart(expected, found) < 1e-6
        assert parts == pytest.approx(terms, rel=1e-5)
    alike, _ = step(lesson, own_school, again[1:], 3, 1)
    assert apart(expected, alike) > 1e-3


def test_what_the_student_wrote_itself_has_no_next_token_to_learn(
    own_school, lesson_of, pieces
):
    lesson = lesson_of("adapter")
    prepare(lesson, own_school, "ce", weigher_of(lesson, "fixed"))
    given, other = pieces[0], pieces[7]
    expected, terms = step(lesson, own_school, [given], 1, 1)
    found, parts = step(lesson, own_school, [given, replace(other, own=True)], 1, 2)
    assert apart(expected, found) < 1e-6
    assert parts == pytest.approx(terms, rel=1e-5)
