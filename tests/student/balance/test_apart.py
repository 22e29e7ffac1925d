"""How far domains are apart: by hand, by autograd and by scikit-learn's kernel."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch.nn import functional as F

from align.errors import InputError
from align.schedules import Timetable
from plugins.contracts.step import step_context
from student.balance import DomainVectors
from student.objective import HiddenOutput
from student.output.temperature import TEMPERATURES
from student.step.domains import DomainWeights, domain_balance, text_vectors

THREE = ("code", "law", "prose")


def told(signal, steps, width=2):
    """After steps of {domain: mean vector}, each of four tokens in two passes."""
    balance = DomainVectors(THREE, signal, width)
    for step, vectors in enumerate(steps):
        for part in (1.0, 3.0):
            rows = torch.tensor(list(vectors.values())) * part
            counts = torch.full((len(vectors),), part)
            balance.note(rows, counts, list(vectors), step=step)
    return balance


def test_a_domain_is_as_hard_as_its_gradient_points_elsewhere():
    balance = told("gradient", [{"code": (2.0, 0.0), "prose": (0.0, 2.0)}])
    assert balance.difficulty(0).isnan().all()  # a step counts from the next one on
    code, law, prose = balance.difficulty(1).tolist()
    assert math.isnan(law)
    assert code == prose == pytest.approx(1 - 1 / math.sqrt(2))
    # code's mean becomes 0.9 (2, 0) + 0.1 (0, -10) = (1.8, -1); with (0, 2): (0.9, 0.5)
    later = told(
        "gradient", [{"code": (2.0, 0.0), "prose": (0.0, 2.0)}, {"code": (0.0, -10.0)}]
    )
    code, _, prose = later.difficulty(2).tolist()
    length = math.hypot(0.9, 0.5)
    assert code == pytest.approx(
        1 - (1.8 * 0.9 - 1 * 0.5) / (math.hypot(1.8, 1.0) * length)
    )
    assert prose == pytest.approx(1 - 0.5 / length)
    weights = later.weights(1.0, 2)
    mean = (code + prose) / 2
    expected = torch.tensor([code / mean, 1.0, prose / mean], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)
    alike = told("gradient", [{"code": (1.0, 0.0), "prose": (3.0, 0.0)}])
    assert alike.weights(2.0, 1).tolist() == [1, 1, 1]
    assert told("gradient", [{"code": (1.0, 0.0)}]).difficulty(1).isnan().all()


def test_a_domain_like_all_others_together_has_a_tenth_of_the_mean_difficulty():
    steps = [{"code": (2.0, 0.0), "law": (1.0, 1.0), "prose": (0.0, 2.0)}]
    balance, apart = told("gradient", steps), 1 - 1 / math.sqrt(2)
    left = torch.tensor([apart, 0.1 * 2 * apart / 3, apart], dtype=torch.float64)
    torch.testing.assert_close(balance.weights(1.0, 1), left / left.mean())
    assert 0 <= balance.difficulty(1)[1] < 1e-9


def test_the_discrepancy_of_states_is_the_kernel_s():
    torch.manual_seed(3)
    states = {
        "code": torch.randn(40, 6),
        "law": torch.randn(30, 6) + torch.tensor([3.0, 0, 0, 0, 0, 0]),
        "prose": torch.randn(50, 6) * 2,
    }
    balance = DomainVectors(THREE, "mmd", 6)
    for name, rows in states.items():
        summed = balance.features(rows).sum(0, keepdim=True)
        balance.note(summed, torch.tensor([len(rows)]), [name], step=0)
    unit = {name: F.normalize(rows, dim=-1) for name, rows in states.items()}

    def product(a, b):
        return rbf_kernel(unit[a], unit[b], gamma=1.0).mean()

    for name, hard in zip(THREE, balance.difficulty(1).tolist(), strict=True):
        x, y = (each for each in THREE if each != name)
        squared = product(name, name) - product(name, x) - product(name, y)
        squared += (product(x, x) + product(y, y) + 2 * product(x, y)) / 4
        assert hard == pytest.approx(math.sqrt(squared), abs=0.05)
    code, law, prose = balance.difficulty(1).tolist()
    assert law > 1.5 * max(code, prose)


def test_features_are_float32_where_products_are_bfloat16():
    balance = DomainVectors(THREE, "mmd", 6)
    states = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    expected = balance.features(states)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(balance.features(states), expected)


def test_vectors_of_texts_are_their_gradients_and_features_on_predicted_tokens():
    ctx = step_context(size=7)[0]
    student = ctx.outputs.student
    output = HiddenOutput(student.hidden, student.matrix)
    ctx = replace(ctx, output=output)
    hidden = output.hidden.detach().double().requires_grad_()
    gradient = domain_balance("gradient", THREE, hidden.shape[-1])
    rows, counts = text_vectors(ctx, gradient)
    predicted = ctx.batch.predicted.clone()
    predicted[:, 0] = False
    assert counts.tolist() == predicted.sum(1).tolist()
    head = output.head
    bias = None if head.bias is None else head.bias.detach().double()
    logits = F.linear(hidden, head.weight.detach().double(), bias)
    kept = predicted[:, 1:]
    loss = F.cross_entropy(
        logits[:, :-1][kept], ctx.batch.ids[:, 1:][kept], reduction="sum"
    )
    (expected,) = torch.autograd.grad(loss, hidden)
    torch.testing.assert_close(rows, expected.sum(1), rtol=1e-4, atol=1e-5)
    states = domain_balance("mmd", THREE, hidden.shape[-1])
    rows, _ = text_vectors(ctx, states)
    with pytest.raises(InputError, match="domain_signal=mmd goes by the student's"):
        text_vectors(replace(ctx, output=output.logits), states)
    of_first = states.features(output.hidden.detach()[0, :-1][kept[0]])
    torch.testing.assert_close(rows[0], of_first.double().sum(0))


def test_the_rule_difficulty_goes_by_domains_and_their_mean():
    balance = told("gradient", [{"code": (2.0, 0.0), "prose": (0.0, 2.0)}])
    timetable = Timetable(10, rules=TEMPERATURES, reads_domains=True)
    setting = {"from": 1.0, "to": 3.0, "rule": "difficulty", "scale": 0.5}
    assert timetable.value(setting, "loss.lambda_k", 1) == 1.0  # nobody notes domains
    weights = DomainWeights(balance=balance, setting=0.0, timetable=timetable)
    timetable.domains = weights.difficulty
    assert timetable.value(setting, "loss.lambda_k", 0) == 1.0
    share = (1 - 1 / math.sqrt(2)) / 0.5
    value = timetable.value(setting, "loss.lambda_k", 1)
    assert value == pytest.approx(1 + 2 * share)
    assert set(weights.difficulty(1)) == {"code", "prose"}
