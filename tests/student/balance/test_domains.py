"""Texts that count by how the student does in their domain."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from plugins.contracts.step import step_context
from student.balance import DomainBalance, DomainVectors
from student.config import LossConfig
from student.loop.job import Job
from student.loop.phase_checkpoint import Keeper
from student.loop.trainer import train_phase
from student.objective import HiddenOutput
from student.step.records import PassInputs
from student.terms.key_value import ce, next_token_losses
from tests.student.watching import Watching

TWO = ("code", "prose")


def told(signal, steps):
    """After steps of (loss, tokens) by domain, in two passes each."""
    balance = DomainBalance(TWO, signal)
    for step, (code, prose) in enumerate(steps):
        for part in (0.25, 0.75):
            losses = torch.tensor([4.0 * part * code, 2.0 * part * prose])
            counts = torch.tensor([4.0 * part, 2.0 * part])
            balance.note(losses, counts, TWO, step=step)
    return balance


def test_what_has_been_learned_less_counts_more_by_hand():
    balance = told("progress", [(4.0, 2.0), (2.0, 2.0)])
    # means: code 0.9 * 4 + 0.1 * 2 = 3.8, a share of 0.95; prose 1
    left = torch.tensor([0.95, 1.0], dtype=torch.float64)
    for alpha in (1.0, 2.0, 0.0):
        expected = left**alpha / (left**alpha).mean()
        torch.testing.assert_close(balance.weights(alpha, 2), expected)
    sizes = torch.tensor([3.8, 2.0], dtype=torch.float64)
    by_size = told("loss", [(4.0, 2.0), (2.0, 2.0)]).weights(1.0, 2)
    torch.testing.assert_close(by_size, sizes / sizes.mean())


def test_nothing_known_weighs_alike_and_a_step_counts_from_the_next_one_on():
    balance = DomainBalance(TWO)
    assert balance.weights(3.0, 0).tolist() == [1, 1]
    balance.note(torch.tensor([6.0]), torch.tensor([2]), ["code"], step=0)
    balance.note(torch.tensor([9.0]), torch.tensor([2]), ["music"], step=0)
    assert balance.mean.tolist() == [0, 0]  # it waits
    balance.note(torch.tensor([torch.nan]), torch.tensor([2]), ["code"], step=1)
    balance.note(torch.tensor([2.0]), torch.tensor([2]), ["code"], step=1)
    assert balance.mean.tolist() == balance.first.tolist() == [3, 0]
    assert balance.weights(2.0, 2).tolist() == [1, 1]  # one is known, its mean is 1
    weights = torch.tensor([0.5, 1.5])
    assert balance.of_texts(["prose", "x"], weights).tolist() == [1.5, 1.0]


def test_what_waits_is_of_all_processes():
    def of_three(numbers):
        return [3 * number for number in numbers]

    balance = DomainBalance(TWO)
    sums, counts = torch.tensor([6.0, 1.0]), torch.tensor([2, 4])
    balance.note(sums, counts, ["code", "prose"], step=0, total=of_three)
    assert balance.waiting.tolist() == [[18, 3], [6, 12]]


def test_a_checkpoint_holds_the_same_buffers_in_the_same_order():
    def shapes(balance):
        return {name: tuple(x.shape) for name, x in balance.state_dict().items()}

    losses = {"first": (2,), "mean": (2,), "waiting": (2, 2), "waiting_step": ()}
    assert list(shapes(DomainBalance(TWO)).items()) == list(losses.items())
    vectors = {"mean": (2, 3), "known": (2,), "waiting": (2, 4), "waiting_step": ()}
    made = DomainVectors(TWO, "gradient", 3)
    assert list(shapes(made).items()) == list(vectors.items())


def test_texts_count_by_their_weight_with_and_without_logits():
    ctx = step_context(size=7)[0]
    head = ctx.outputs.student.matrix
    hidden = ctx.outputs.student.hidden
    by_text = torch.tensor([0.5, 3.0])
    for output in (HiddenOutput(hidden, head), hidden @ head.weight.T):
        ctx = replace(ctx, output=output, by_text=None)
        logits = (hidden @ head.weight.T)[:, :-1]
        labels = ctx.batch.ids[:, 1:]
        each = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        each = each * ctx.batch.predicted[:, 1:]
        losses, counts = next_token_losses(ctx)
        torch.testing.assert_close(losses, each.sum(1).double())
        assert counts.tolist() == ctx.batch.predicted[:, 1:].sum(1).tolist()
        value = ce(replace(ctx, by_text=by_text))
        expected = (each.sum(1) * by_text).sum() / counts.sum()
        torch.testing.assert_close(value, expected)
        plain = ce(replace(ctx, by_text=torch.ones(2)))
        torch.testing.assert_close(plain, ce(ctx))


def test_every_comparison_of_a_text_is_weighed_by_its_domain(school):
    loss = LossConfig(eta_outcome=0.0, domain_balance=1.0)
    lesson = school.lesson("adapter", loss=loss)
    lesson.distiller.domains = DomainBalance(TWO)
    distiller, batch = lesson.distiller.eval(), school.batch(2)
    domains = ["prose", "code"]
    rows = None if not distiller.compared_rows else torch.ones(2, 1).long()
    views = lesson.panel(batch, rows)
    parts = []
    for weights in ((1.0, 1.0), (0.5, 1.5)):
        distiller.domains.weights = lambda alpha, step, w=weights: torch.tensor(w)
        with torch.no_grad():
            inputs = PassInputs(batch=batch, views=views, rows=rows, domains=domains)
            read = distiller._read(inputs)
        parts.append([c.weight for c in read.context.comparisons])
        assert read.context.by_text.tolist() == list(weights[::-1])
    scale = torch.tensor([[1.5], [0.5]])
    for plain, weighed in zip(*parts, strict=True):
        torch.testing.assert_close(weighed, plain * scale)


@pytest.mark.slow
def test_weights_of_domains_go_on_bit_for_bit(school, start_engine, tmp_path):
    from tests.student.ranks import BASE, same

    loss = LossConfig(eta_outcome=0.0, gamma_kl=0.0, domain_balance=2.0)
    config = replace(BASE, steps=4, grad_accum=2, prefetch=False)
    keeper, runs = Keeper(folder=tmp_path), []
    for stop_at, kept in ((None, None), (2, keeper), (None, keeper)):
        lesson = school.lesson("projector", loss=loss)
        lesson.distiller.domains = DomainBalance(sorted({"prose", "code"}))
        lines = []
        job = Job(
            samples=school.samples[:16],
            encode=school.encode,
            views=lesson.panel,
            steps=4,
            seed=3,
            checkpoints=kept,
            observer=Watching(lines, stop_at),
        )
        train_phase(lesson.distiller, start_engine(config), job, config)
        lines = [x["schedules"] for x in lines if x["kind"] == "train"]
        runs.append((lines, dict(lesson.distiller.state_dict())))
    (whole, expected), _, (rest, resumed) = runs
    assert whole[2:] == rest and same(expected, resumed)
    code = [line["loss.domain_balance[code]"] for line in whole]
    assert code[0] == 1 and len(set(code)) > 2
    assert all(0 < weight < 2 for weight in code)
