"""The loop of one phase: order, stopping, going on, and bad numbers."""

import math
from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from align.schedules import Timetable
from student.checkpoint import steps_kept
from student.config import LossConfig, TrainConfig
from student.loop.data_order import sample_indices
from student.loop.engine import parameter_groups
from student.loop.phase_checkpoint import Keeper
from student.loop.trainer import Job, NonFiniteLossError, train_phase
from student.match import Match
from student.terms.key_value import OBJECTIVES
from tests.student.ranks import LearnedTerm
from tests.student.watching import Watching

CONFIG = TrainConfig(
    steps=6, batch_size=2, engine="torch", log_every=1, warmup_steps=1, grad_accum=2
)


def job_for(school, lesson, **changes) -> Job:
    job = Job(
        samples=school.samples[:20],
        encode=school.encode,
        views=lesson.panel,
        steps=6,
        seed=3,
    )
    return replace(job, **changes)


def weights_of(lesson) -> dict[str, torch.Tensor]:
    return {n: x.detach().clone() for n, x in lesson.distiller.state_dict().items()}


def lesson_for(school, dropout: float):
    """A routed lesson; its student drops attention out when asked to."""
    model = school.student(seed=1, attention_dropout=dropout)
    return school.lesson(
        "projector", loss=LossConfig(outcome_every=2), routed=True, model=model
    )


@pytest.mark.parametrize(
    ("engine", "dropout"),
    [
        pytest.param("torch", 0.0, marks=pytest.mark.slow),
        ("torch", 0.3),
        pytest.param("deepspeed", 0.3, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_and_resumed_phase_equals_an_undisturbed_one_bit_for_bit(
    school, start_engine, tmp_path, engine, dropout
):
    """Dropout included. Fails when the checkpoint leaves out optimiser or generator."""
    config = replace(CONFIG, engine=engine)

    def run(lines, stop_at=None, seed=0, folder=None):
        lesson = lesson_for(school, dropout)
        torch.manual_seed(seed)
        job = job_for(
            school,
            lesson,
            checkpoints=folder and Keeper(folder=folder),
            observer=Watching(lines, stop_at),
        )
        done = train_phase(lesson.distiller, start_engine(config), job, config)
        return done, weights_of(lesson)

    whole, first, second = [], [], []
    done, expected = run(whole)
    assert done == 6
    folder = tmp_path / "checkpoint"
    done, _ = run(first, stop_at=3, folder=folder)
    assert done == 3 and [step for step, _ in steps_kept(folder)] == [3]
    done, found = run(second, seed=99, folder=folder)  # another state of the generator
    assert done == 6
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    losses = [[x["loss"] for x in lines if "loss" in x] for lines in (whole, first)]
    resumed = [x["loss"] for x in second if "loss" in x]
    assert losses[0] == losses[1] + resumed
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.slow
def test_what_moves_is_logged_and_goes_on_bit_for_bit(
    school, start_engine, tmp_path, monkeypatch
):
    monkeypatch.setitem(OBJECTIVES, "match", Match)
    shape = {"use": "match", "distance": "gram", "layer_weights": "gradient"}
    drawn = {"random": {"from": 1, "to": 2, "steps": 4}}
    by_loss = {"from": 2.0, "to": 1.0, "rule": "loss", "fall": 0.01}
    loss = LossConfig(
        lambda_v=by_loss,
        outcome_every=2,
        fade={"from": 1.0, "to": 0.0},
        lambda_k={"from": 0.0, "to": 3.0, "steps": 4, "rule": "cosine"},
        temperatures=[{"from": 4.0, "to": 1.0, "rule": "exponential"}],
        eta_outcome={"from": 1.0, "to": 0.5, "rule": "step", "count": 2},
        terms={"shape": {**shape, "layers": drawn, "weight": 0.1}},
        smoothing={"from": 0.0, "to": 0.3},
        temperature_rise={"from": 0.0, "to": 0.6},
    )
    rate = {"from": 1e-3, "to": 0.0, "rule": "three_part", "peak": 1e-2, "warmup": 2}
    decay = {"from": 0.0, "to": 0.9}
    config = replace(CONFIG, learning_rate=rate, weight_decay=decay)

    def run(lines, stop_at=None, folder=None):
        model = school.student(seed=1, attention_dropout=0.0)
        lesson = school.lesson(
            "projector",
            loss=loss,
            routed=True,
            model=model,
            timetable=Timetable(reads_losses=True),
        )
        job = job_for(
            school,
            lesson,
            checkpoints=folder and Keeper(folder=folder),
            observer=Watching(lines, stop_at),
        )
        train_phase(lesson.distiller, start_engine(config), job, config)
        return weights_of(lesson)

    whole, first, second = [], [], []
    expected = run(whole)
    run(first, 3, tmp_path / "checkpoint")
    resumed = run(second, None, tmp_path / "checkpoint")
    for name, weight in expected.items():
        assert torch.equal(resumed[name], weight), name
    logged = [
        [
            (x["loss"], x["schedules"], x["lr"], x["layers"], x["layer_weights"])
            for x in lines
            if x["kind"] == "train"
        ]
        for lines in (whole, first, second)
    ]
    assert logged[0] == logged[1] + logged[2]
    for _, schedules, _, layers, weights in logged[0]:
        count = schedules["loss.terms.shape.layers.random"]
        assert len(layers["shape"]) == count
        assert sum(weight > 0 for weight in weights["shape"]) == count
        assert sum(weights["shape"]) == pytest.approx(1)
    by_loss = [schedules["loss.terms.kv_v.weight"] for _, schedules, *_ in logged[0]]
    assert by_loss[:2] == [2.0, 2.0] and min(by_loss) < 2.0  # as the loss has fallen
    third = logged[0][2]
    third[1].pop("loss.terms.kv_v.weight")
    assert third[1] == pytest.approx(
        {
            "loss.eta_outcome": 1.0,
            "loss.fade": 2 / 3,
            "loss.terms.kv_k.weight": 1.5,
            "loss.smoothing": 0.1,
            "loss.temperature_rise": 0.2,
            "loss.temperatures[0]": 4 ** (2 / 3),
            "loss.terms.shape.layers.random": 2,
            "train.learning_rate": 1e-2,
            "train.weight_decay": 0.3,
        }
    )
    assert third[2] == 1e-2


def test_weight_decay_of_a_step_reaches_what_decays_alone(school, start_engine):
    decay = {"from": 0.8, "to": 0.0, "steps": 4}
    config, lesson = replace(CONFIG, weight_decay=decay), school.lesson("projector")
    with start_engine(config).prepared(lesson.distiller, config, 4) as prepared:
        prepared.set_learning_rate(3)
        groups = prepared._optimizer.param_groups
        decays = sorted({group["weight_decay"] for group in groups})
        assert decays == pytest.approx([0.0, 0.2])


def learned_lesson(school, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "learned", LearnedTerm)
    loss = LossConfig(
        outcome_every=2,
        terms={"mine": {"use": "learned", "weight": 0.1, "start": 0.5}},
    )
    return school.lesson("projector", loss=loss)


@pytest.mark.slow
def test_what_a_term_learns_is_trained_at_the_bridges_rate_moved_and_saved(
    school, start_engine, tmp_path, monkeypatch
):
    """Fails where terms stand outside of the distiller's modules."""

    def run(stop_at=None, folder=None):
        lesson = learned_lesson(school, monkeypatch)
        job = job_for(
            school,
            lesson,
            checkpoints=folder and Keeper(folder=folder),
            observer=Watching(stop_at=stop_at),
        )
        train_phase(lesson.distiller, start_engine(CONFIG), job, CONFIG)
        return lesson

    whole = weights_of(run())
    run(3, tmp_path)
    resumed = weights_of(run(None, tmp_path))
    names = {"terms.mine-term.where", "terms.mine-term.calls"}
    assert names <= whole.keys()
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    assert float(whole["terms.mine-term.calls"]) == 6 * CONFIG.grad_accum
    assert float((whole["terms.mine-term.where"] - 0.5).abs().min()) > 1e-4

    lesson = learned_lesson(school, monkeypatch)
    assert lesson.distiller.double().terms["mine-term"].where.dtype == torch.float64
    config = replace(CONFIG, bridge_learning_rate=0.5)
    groups = parameter_groups(lesson.distiller, config)
    (group,) = [g for g in groups if any(p.shape == (3, 2) for p in g["params"])]
    assert group["lr"] == 0.5 and group["weight_decay"] == 0.0


class Hidden:
    """Holds a parameter where nobody would train it."""

    needs = frozenset()

    def __init__(self):
        self.inner = torch.nn.Linear(2, 2)

    def __call__(self, ctx):
        return ctx.zero()


def test_a_term_that_hides_parameters_is_refused(school, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "hidden", Hidden)
    with pytest.raises(InputError, match=r"'hidden' holds parameters in 'inner'"):
        school.lesson("adapter", loss=LossConfig(extra={"hidden": 1.0}))


def test_dropout_is_really_on_in_the_test_above(school):
    lesson = lesson_for(school, 0.3)
    batch = school.batch()
    lesson.distiller.train()
    assert lesson.run(batch, 1).loss != lesson.run(batch, 1).loss
    lesson.distiller.eval()
    assert lesson.run(batch, 1).loss == lesson.run(batch, 1).loss


def test_a_checkpoint_every_few_steps_leaves_only_the_newest(
    school, start_engine, tmp_path
):
    config = replace(CONFIG, checkpoint_every=2, grad_accum=1, keep_checkpoints=1)
    lesson = school.lesson(None)
    job = job_for(school, lesson, checkpoints=Keeper(folder=tmp_path, keep=1), steps=5)
    train_phase(lesson.distiller, start_engine(config), job, config)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_samples_are_read_in_the_order_of_the_seed_from_where_the_phase_starts(
    school, start_engine
):
    read: list[str] = []

    def encode(texts):
        read.extend(texts)
        return school.encode(texts)

    lesson = school.lesson(None)
    config = replace(CONFIG, batch_size=2, grad_accum=2)
    job = job_for(school, lesson, encode=encode, steps=3, first_sample=8)
    train_phase(lesson.distiller, start_engine(config), job, config)
    expected = sample_indices(20, 3, 8, 12)
    assert read == [school.samples[i].text for i in expected]


def test_metrics_name_terms_teachers_and_domains(school, start_engine):
    watching = Watching()
    lesson = lesson_for(school, 0.0)
    config = replace(CONFIG, log_every=2)
    job = job_for(school, lesson, observer=watching, steps=4)
    train_phase(lesson.distiller, start_engine(config), job, config)
    assert watching.steps == [1, 2, 3, 4]
    trained = [line for line in watching.lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [1, 3, 4]
    for line in trained:
        assert {"ce", "kv_k", "kv_v", "cosine", "attention_kl"} <= set(line["terms"])
        assert set(line["coverage"]) == {"gpt2-prose", "qwen-code"}
        assert all(0 < share <= 1 for share in line["coverage"].values())
    assert trained[0]["lr"] == pytest.approx(CONFIG.learning_rate / 2)  # warm-up
    routed = [line for line in watching.lines if line["kind"] == "routing"]
    for line in routed:
        assert set(line["weights"]) <= {"prose", "code"}
        for by_teacher in line["weights"].values():
            assert sum(by_teacher.values()) == pytest.approx(1.0)


class Poisoned(torch.nn.Module):
    """Passes a model's parameters on; its loss is NaN at the given calls."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.bad, self.calls = bad, 0

    def __call__(self, ctx):
        self.calls += 1
        loss = ctx.logits.float().square().mean()
        return loss * math.nan if self.calls in self.bad else loss

    needs = frozenset()


def poisoned(school, bad):
    lesson = school.lesson(None)
    ce = lesson.distiller._objectives["ce"]
    lesson.distiller._objectives["ce"] = replace(ce, objective=Poisoned(bad))
    return lesson


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_a_single_bad_loss_is_skipped_named_and_leaves_the_weights_finite(
    school, start_engine, engine
):
    lesson, lines = poisoned(school, {3}), []
    config = replace(CONFIG, grad_accum=1, engine=engine)
    job = job_for(school, lesson, observer=Watching(lines), steps=5)
    assert train_phase(lesson.distiller, start_engine(config), job, config) == 5
    (event,) = [line for line in lines if line["kind"] == "event"]
    assert event["event"] == "non-finite loss" and event["step"] == 3
    assert event["terms"] == ["ce"]
    assert event["samples"] == [
        school.samples[i].id for i in sample_indices(20, 3, 4, 2)
    ]
    assert all(bool(p.isfinite().all()) for p in lesson.model.parameters())


def test_bad_losses_in_a_row_stop_the_run_with_advice(school, start_engine):
    lesson = poisoned(school, {2, 4, 5, 6})
    config = replace(CONFIG, grad_accum=1, max_bad_steps=3)
    job = job_for(school, lesson, steps=9)
    with pytest.raises(NonFiniteLossError, match=r"3 times in a row, last at step 6"):
        train_phase(lesson.distiller, start_engine(config), job, config)


@pytest.mark.slow
def test_what_a_balancer_learns_is_trained_at_its_own_rate_told_and_saved(
    school, start_engine, tmp_path
):
    config = replace(CONFIG, balance_learning_rate=0.1)

    def run(lines, stop_at=None, folder=None):
        lesson = school.lesson("projector", balance="gradnorm")
        job = job_for(
            school,
            lesson,
            checkpoints=folder and Keeper(folder=folder),
            observer=Watching(lines, stop_at),
        )
        train_phase(lesson.distiller, start_engine(config), job, config)
        return lesson

    lines, resumed = [], []
    whole = weights_of(run(lines))
    run([], 3, tmp_path)
    again = weights_of(run(resumed, None, tmp_path))
    names = {"balance.balancer.scores", "balance.balancer.first"}
    assert names <= whole.keys()
    for name in whole:
        assert torch.equal(whole[name], again[name]), name
    assert float(whole["balance.balancer.scores"].abs().max()) > 0.1

    told = [line for line in lines if line["kind"] == "train"]
    assert told[0]["balance"].keys() | {"balance", "outcome"} >= told[0]["terms"].keys()
    assert told[0]["balance"] != told[-1]["balance"]
    last = [line for line in resumed if line["kind"] == "train"][-1]
    assert told[-1]["balance"] == last["balance"]
    lesson = school.lesson("projector", balance="gradnorm")
    groups = parameter_groups(lesson.distiller, config)
    scores = lesson.distiller.balance.balancer.scores
    (group,) = [g for g in groups if any(p is scores for p in g["params"])]
    assert group["lr"] == 0.1 and group["weight_decay"] == 0.0
