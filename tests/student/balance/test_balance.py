"""A balancer inside a real step: what it is told, and what its answer does."""

from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from align.kv import KV
from align.views import Captured
from student.balance import BALANCERS, Balance, Balanced, parted, sources_of
from student.config import LossConfig, TrainConfig
from student.loop.batches import BatchMaker
from student.loop.job import Job
from student.loop.phase_checkpoint import Keeper
from student.loop.trainer import train_phase
from student.places import Share
from teacher.output_head import linear_head
from tests.student.watching import Watching

LOSS = LossConfig(eta_outcome=0.0, relation_k=0.5, lambda_v=0.3)
TERMS = ("kv_k", "kv_v", "cosine", "attention_kl", "ce", "relation_k")


class Listening:
    """Keeps what it is told, and changes nothing."""

    needs = frozenset({"gradients"})

    def __init__(self):
        self.told = []

    def __call__(self, standing):
        self.told.append(standing)
        return Balanced(weights=standing.weights)


class Leaves:
    """A capture whose tensors nothing stands behind."""

    def __init__(self, inner):
        self.inner, self.kept = inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, *asked, **how):
        captured = self.inner(*asked, **how)
        changed = {"kv": replace(captured.kv, **self.cut(captured.kv, "k", "v"))}
        names = [n for n in ("hidden", "attention") if getattr(captured, n) is not None]
        return replace(captured, **changed, **self.cut(captured, *names))

    def cut(self, held, *names):
        found = {n: getattr(held, n).detach().requires_grad_() for n in names}
        self.kept += found.values()
        return found


def double(lesson):
    lesson.distiller.eval()
    lesson.model.double()
    return lesson


def listened(lesson):
    names = list(lesson.distiller._objectives)
    listening = Listening()
    lesson.distiller.balance = Balance(listening, names, "ce")
    return listening


def gradients(result, distiller):
    distiller.zero_grad()
    result.loss.backward()
    return {
        name: p.grad.clone()
        for name, p in distiller.named_parameters()
        if p.grad is not None
    }


def test_inner_products_are_those_of_each_terms_own_backward_pass(school):
    lesson = double(school.lesson("projector", loss=LOSS))
    batch, listening = school.batch(2), listened(lesson)
    lesson.run(batch)
    head = linear_head(lesson.capture)  # logits of the test's own, not the model's
    lesson.distiller._contexts = replace(lesson.distiller._contexts, head=head)
    lesson.run(batch)
    through_logits, standing = listening.told
    torch.testing.assert_close(through_logits.gram, standing.gram)
    assert set(standing.names) == set(TERMS) and standing.next_token is not None
    leaves = Leaves(lesson.distiller._capture)
    lesson.distiller._capture, lesson.distiller.balance = leaves, None
    every, objectives = [], dict(lesson.distiller._objectives)
    for name in standing.names:
        leaves.kept.clear()
        lesson.distiller._objectives = {name: replace(objectives[name], weight=1.0)}
        lesson.run(batch).loss.backward()
        every.append(
            torch.cat(
                [
                    (torch.zeros_like(x) if x.grad is None else x.grad).flatten()
                    for x in leaves.kept
                ]
            ).double()
        )
    pulls = torch.stack(every)
    lengths = standing.norms * standing.norms[:, None]
    cosines, expected = standing.gram / lengths, pulls @ pulls.T / lengths
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-5)
    meet = dict(zip(standing.names, standing.gram, strict=True))
    ce = standing.names.index("ce")
    assert meet["kv_k"][ce] == 0  # they meet the student in different tensors
    assert meet["kv_k"][standing.names.index("cosine")] > 0


def test_a_gradient_to_one_layer_does_not_come_back_through_those_above():
    x = torch.ones(1, 1, 1, 2, 3, requires_grad=True)
    hidden = 3 * x[0, :, 0]
    captured = Captured(
        kv=KV(x * 1, x * 1, torch.ones(1, 2, dtype=torch.bool)), hidden=hidden
    )
    apart = parted(captured)
    loss = apart.kv.k.sum() + (2 * apart.hidden).sum()
    k, v, to_hidden = torch.autograd.grad(loss, sources_of(apart), allow_unused=True)
    assert v is None and (k == 1).all() and (to_hidden == 2).all()


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_the_step_is_the_terms_own_gradients_by_the_weights_that_are_told(school, name):
    lesson = double(school.lesson("projector", loss=LOSS, balance=name))
    distiller, batch = lesson.distiller, school.batch(2)
    result = lesson.run(batch, step=3)
    whole = gradients(result, distiller)
    objectives, total = dict(distiller._objectives), {}
    by_config = {name: o.weight for name, o in objectives.items()}
    assert (result.weights == pytest.approx(by_config)) == (
        name in ("none", "uncertainty", "gradnorm")  # the learned ones begin there
    )
    distiller.balance = None
    for term, weight in result.weights.items():
        distiller._objectives = {term: replace(objectives[term], weight=weight)}
        for parameter, gradient in gradients(lesson.run(batch, 3), distiller).items():
            total[parameter] = total.get(parameter, 0) + gradient
    own = {n for n in whole if n.startswith("balance.")}
    assert len(own) == (name in ("uncertainty", "gradnorm"))
    assert total.keys() == whole.keys() - own
    far = sum(float((whole[n] - g).square().sum()) for n, g in total.items())
    size = sum(float(g.square().sum()) for g in total.values())
    assert far**0.5 < 1e-5 * size**0.5  # bridges compare in float32


def test_none_is_bit_equal_to_no_balancer(school):
    plain, weighed = (
        school.lesson("projector", loss=LOSS, balance=name) for name in (None, "none")
    )
    batch = school.batch(2)
    one, two = plain.run(batch), weighed.run(batch)
    assert torch.equal(one.loss, two.loss) and not one.weights
    assert two.weights == {n: o.weight for n, o in plain.distiller._objectives.items()}


def test_gradient_checkpointing_changes_neither_weights_nor_gradients(school):
    found = []
    for checkpointing in (False, True):
        lesson = double(school.lesson("projector", loss=LOSS, balance="pareto"))
        lesson.distiller.train()
        if checkpointing:
            lesson.model.gradient_checkpointing_enable({"use_reentrant": False})
        result = lesson.run(school.batch(2))
        found.append((result.weights, gradients(result, lesson.distiller)))
    (weights, plain), (again, recomputed) = found
    assert again == pytest.approx(weights, rel=1e-9)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient)


def test_autocast_weighs_much_like_float32(school):
    lesson = school.lesson("projector", loss=LOSS, balance="gradient_magnitude")
    batch = school.batch(2)
    wide = lesson.run(batch).weights
    lesson.distiller._autocast = torch.bfloat16
    narrow = lesson.run(batch)
    assert narrow.weights == pytest.approx(wide, rel=0.1)
    assert all(g.isfinite().all() for g in gradients(narrow, lesson.distiller).values())


def shares(lesson, school, size, passes, samples=None):
    """The passes of one step of eight samples, each with its share."""
    maker = BatchMaker(
        samples=samples or school.samples[:8],
        encode=school.encode,
        views=lesson.panel,
        seed=3,
        rows=lesson.distiller.compared_rows,
        batch_size=size,
        first_sample=0,
        device=torch.device("cpu"),
        rank=0,
        world_size=1,
        survey=lesson.distiller.survey,
    )
    of = maker.by_step(passes)
    for index in range(passes):
        made = of(index)
        yield made, Share(made.places, made.counts, made.step)


# What a term has no count for is a mean over its pass, and relations sample rows.
COUNTED = LossConfig(eta_outcome=0.0, gamma_kl=0.0)


@pytest.mark.parametrize("name", ["relative", "gradient_magnitude", "conflict"])
def test_two_processes_weigh_as_one_that_reads_all(school, name):
    lesson = double(school.lesson("projector", loss=COUNTED, balance=name))
    told = []

    def run(made, share):
        return lesson.distiller(made.batch, made.views, made.rows, 1, False, share)

    ((made, share),) = shares(lesson, school, 8, 1)
    alone = run(made, replace(share, over_processes=lambda x: told.append(x) or x))
    parts = list(shares(lesson, school, 4, 2))
    heard = []
    for made, share in parts:
        run(made, replace(share, over_processes=lambda x: heard.append(x) or x))
    together = [a + b for a, b in zip(*heard, strict=True)]
    assert together == pytest.approx(told[0], rel=1e-5, abs=1e-12)
    for made, share in parts:
        result = run(made, replace(share, over_processes=lambda x: together))
        assert result.weights == pytest.approx(alone.weights, rel=1e-5)


def test_the_uncertainty_of_a_step_is_one_however_it_is_cut(school):
    lesson = double(school.lesson("projector", loss=COUNTED, balance="uncertainty"))
    sigma = lesson.distiller.balance.balancer.log_sigma
    moved = []
    for split in ((8, 1), (4, 2)):
        lesson.distiller.zero_grad()
        for made, share in shares(lesson, school, *split):
            lesson.distiller(
                made.batch, made.views, made.rows, 1, False, share
            ).loss.backward()
        moved.append(sigma.grad.clone())
    torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-9)


def test_a_pass_without_a_place_for_a_term_leaves_the_step_s_uncertainty_alone(school):
    """Its texts are predicted, but all of their keys are attention sinks."""
    loss = replace(COUNTED, skip_sinks=8)
    lesson = double(school.lesson("projector", loss=loss, balance="uncertainty"))
    sigma = lesson.distiller.balance.balancer.log_sigma
    samples = [replace(school.samples[0], text="of it"), *school.samples[:1]]
    moved = []
    for split in ((2, 1), (1, 2)):
        lesson.distiller.zero_grad()
        empty = []
        for made, share in shares(lesson, school, *split, samples):
            empty.append(not made.counts.terms["kv_k"][0] and made.counts.predicted > 0)
            lesson.distiller(
                made.batch, made.views, made.rows, 1, False, share
            ).loss.backward()
        moved.append(sigma.grad.clone())
    assert sum(empty) == 1
    torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-9)


# Those that learn go on so in tests/experiments/runs/test_all_sites.py.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["relative", "gradient_magnitude", "pareto", "conflict"]
)
def test_a_stopped_phase_goes_on_bit_for_bit(school, start_engine, tmp_path, name):
    config = TrainConfig(
        steps=2, batch_size=2, log_every=1, prefetch=False, engine="torch"
    )
    keeper, runs = Keeper(folder=tmp_path), []
    for stop_at, kept in ((None, None), (1, keeper), (None, keeper)):
        lesson, lines = school.lesson("projector", loss=LOSS, balance=name), []
        job = Job(
            samples=school.samples[:4],
            encode=school.encode,
            views=lesson.panel,
            steps=2,
            seed=3,
            checkpoints=kept,
            observer=Watching(lines, stop_at),
        )
        train_phase(lesson.distiller, start_engine(config), job, config)
        weights = [line["balance"] for line in lines if line["kind"] == "train"]
        runs.append((weights, dict(lesson.distiller.state_dict())))
    (whole, expected), (first, _), (rest, resumed) = runs
    assert len(whole) == 2 and whole == first + rest
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


def test_a_step_that_is_not_finite_leaves_the_balancer_alone():
    listening = Listening()
    balance = Balance(listening, ["a", "b"])
    x = torch.ones(1, 1, 1, 1, 1, requires_grad=True)
    captured = Captured(kv=KV(x, x, torch.ones(1, 1, dtype=torch.bool)))
    values = {"a": x.sum(), "b": x.sum() * torch.nan}
    weighing = balance.weigh(values, {"a": 1.0, "b": 2.0}, captured, step=0)
    assert weighing.factors == {"a": 1.0, "b": 2.0} and not listening.told


def test_an_unknown_need_is_refused():
    listening = Listening()
    listening.needs = frozenset({"hessian"})
    with pytest.raises(InputError, match=r"hessian.*give a frozenset of any of"):
        Balance(listening, ["a", "b"])
