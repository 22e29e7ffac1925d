from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from align.errors import InputError
from align.schedules.rules import SIGNALS
from student.output.temperature import TEMPERATURES as RULES
from student.output_config import OutputConfig
from student.step_outputs import Parameters
from student.terms.next_token import OUTPUT_BUILT_IN
from student.terms.same_vocabulary import sides_of
from student.terms.signals import (
    Spots,
    at_temperature,
    logit_spread,
    loss_gap,
    parameters,
    pass_sums,
    spread_of,
)
from tests.student.terms.test_next_token import PREDICTS, context, log_probs, output


def at_all_places(teacher, **changes):
    """The student beside a teacher of its vocabulary, and where they are compared."""
    ctx = context(OutputConfig(kd=1, block=3), teacher)
    outputs = replace(ctx.outputs, **changes)
    (side,) = sides_of(outputs, outputs.teachers)
    rows = torch.arange(len(side.weight))
    spots = Spots(
        rows=rows,
        taught=side.taught,
        teacher=side.teacher,
        weight=side.weight,
        distance=lambda h, head: h.sum(),
    )
    return outputs, spots


def test_spread_is_the_standard_deviation_of_each_places_logits():
    teacher = output(1, width=4)
    outputs, spots = at_all_places(teacher)
    found = logit_spread(outputs, spots)
    places = spots.weight > 0
    for spread, model in zip(found, (outputs.student, teacher), strict=True):
        logits = model.hidden @ model.head.weight.T
        expected = logits.detach().numpy().std(-1).flatten()
        torch.testing.assert_close(spread[places], torch.tensor(expected)[places])


def test_entropy_and_divergence_at_a_temperature_are_those_of_torch():
    teacher = output(1, width=4)
    outputs, spots = at_all_places(teacher)
    entropy, divergence = at_temperature(outputs, spots, 1.7)
    said, own = (
        Categorical(logits=log_probs(model)[PREDICTS] / 1.7)
        for model in (teacher, outputs.student)
    )
    assert entropy == pytest.approx(float(said.entropy().mean()))
    assert divergence == pytest.approx(float(kl_divergence(own, said).mean().detach()))


def test_the_gap_is_that_of_a_domains_texts():
    teacher = output(1, width=4)
    outputs, spots = at_all_places(teacher, domains=["prose", "code"])
    more = (log_probs(teacher) - log_probs(outputs.student))[:, :-1]
    more = more.gather(-1, outputs.student.tokens.ids[:, 1:, None])[..., 0]
    more = more.detach()
    first, second = float(more[0].mean()), float(more[1, :2].mean())
    found = loss_gap(outputs, spots).view(2, 5)
    expected = torch.tensor([[first], [second]]).expand(2, 5)
    torch.testing.assert_close(found.float(), expected)
    alone = loss_gap(replace(outputs, domains=None), spots).view(2, 5)
    torch.testing.assert_close(alone, found)
    one = loss_gap(replace(outputs, domains=["prose"] * 2), spots)
    assert float(one[0]) == pytest.approx((2 * first + second) / 3, rel=1e-5)
    assert len(one.unique()) == 1


def test_the_gap_of_a_domain_goes_over_all_processes():
    teacher = output(1, width=4)
    outputs, spots = at_all_places(teacher, domains=["prose", "code"])
    whole = loss_gap(outputs, spots)
    outputs = replace(outputs, every_domain=("code", "music", "prose"))
    torch.testing.assert_close(loss_gap(outputs, spots), whole)
    other = [3.0, 0.0, 0.0, 2.0, 0.0, 0.0]  # 3 nats over two places of code

    def with_another(numbers):
        return [mine + theirs for mine, theirs in zip(numbers, other, strict=True)]

    both = loss_gap(replace(outputs, over_processes=with_another), spots).view(2, 5)
    torch.testing.assert_close(both[0], whole.view(2, 5)[0])
    expected = (2 * whole.view(2, 5)[1] + 3.0) / 4
    torch.testing.assert_close(both[1], expected)
    entropy, divergence = at_temperature(outputs, spots, 2.0)
    weight = float(spots.weight.sum())
    outputs = replace(outputs, over_processes=lambda x: [x[0] + 1, x[1], x[2] + weight])
    found = at_temperature(outputs, spots, 2.0)
    expected = (entropy / 2 + 1 / (2 * weight), divergence / 2)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "vocabulary"),
    [
        ("kd", "one"),
        ("hybrid_ot", "one"),
        ("hybrid_ot", "another"),
        ("projected_kl", "another"),
        ("likelihood", "another"),
    ],
)
def test_the_noise_of_gradients_is_that_of_all_processes(name, vocabulary):
    heat = {"from": 1.5, "to": 3.0, "rule": "signal_to_noise"}
    settings = {name: 1, "ot_alpha": 1.0 if vocabulary == "one" else 0.0}
    config = OutputConfig(**settings, temperature=heat, likelihood_temperature=2.0)
    teacher = output(1 if vocabulary == "one" else 5, vocabulary=vocabulary)
    weight = torch.rand(2, 5, generator=torch.Generator().manual_seed(2))

    def noted(texts, over_processes=list):
        """What the term's temperature is told, on the process of these texts."""
        ctx = context(config, part(teacher, texts), weights=[weight[texts]])
        student = part(ctx.outputs.student, texts)
        timetable = type(ctx.outputs.timetable)(8, {**RULES, **heard(seen := [])})
        outputs = replace(
            ctx.outputs,
            student=student,
            timetable=timetable,
            over_processes=over_processes,
        )
        OUTPUT_BUILT_IN[name](replace(ctx, batch=student.tokens, outputs=outputs))
        return seen

    def heard(seen):
        def rule(moment):
            seen.append(moment.signal_to_noise())
            return 1.5

        return {"signal_to_noise": rule}

    whole, (first, second) = noted([0, 1]), together(noted, [0], [1])
    assert whole and first == second
    for expected, found in zip(whole, first, strict=True):
        assert found == pytest.approx(expected, rel=1e-6)  # heads are float32
    assert noted([0]) != whole  # one process alone would say something else


def part(one, texts):
    """Some texts of an output."""
    tokens = one.tokens
    tokens = replace(
        tokens,
        ids=tokens.ids[texts],
        mask=tokens.mask[texts],
        spans=tokens.spans[texts],
        texts=tuple(tokens.texts[text] for text in texts),
    )
    return replace(one, tokens=tokens, hidden=one.hidden[texts])


def together(work, *parts):
    """``work`` on each part as a process of its own, which add up what they have."""
    meeting, told = Barrier(len(parts), timeout=20), {}

    def added(number):
        def over_processes(numbers):
            told[number] = numbers
            meeting.wait()
            both = [sum(each) for each in zip(*told.values(), strict=True)]
            meeting.wait()
            return both

        return over_processes

    with ThreadPoolExecutor(len(parts)) as pool:
        works = [pool.submit(work, one, added(i)) for i, one in enumerate(parts)]
        return [done.result() for done in works]


def test_sizes_that_nobody_knows_are_refused_by_the_teachers_name():
    outputs, spots = at_all_places(output(1), parameters=Parameters(10, {"t0": 40}))
    assert parameters(outputs, spots) == (10, 40)
    with pytest.raises(InputError, match="teacher 't0' have is not known"):
        parameters(replace(outputs, parameters=Parameters(10)), spots)


@pytest.mark.parametrize("rule", ["capacity", "spread", "gap", "balanced"])
@pytest.mark.parametrize("name", ["kd", "hybrid_ot", "projected_kl", "likelihood"])
def test_what_outputs_show_moves_every_temperature_but_tokens_across_vocabularies(
    name, rule
):
    across = name in ("projected_kl", "likelihood")
    teacher = output(5, vocabulary="another" if across else "one")
    heat = {"from": 1.5, "to": 3.0, "rule": rule}
    settings = {name: 1, "likelihood_temperature": 2.0, "ot_alpha": 1.0}

    def loss(temperature) -> torch.Tensor:
        ctx = context(OutputConfig(**settings, temperature=temperature), teacher)
        known = replace(ctx.outputs, parameters=Parameters(10, {"t0": 30}))
        timetable = replace(known, timetable=type(known.timetable)(8, RULES))
        return OUTPUT_BUILT_IN[name](replace(ctx, outputs=timetable)).detach()

    if across and rule == "balanced":
        with pytest.raises(InputError, match="cannot be compared token by token"):
            loss(heat)
        return
    assert loss(heat).isfinite()
    assert float(loss(heat)) != pytest.approx(float(loss(1.5)), rel=1e-6)


def test_forbidden_tokens_do_not_widen_a_spread():
    logits = torch.tensor([[1.0, 3.0, -torch.inf, 5.0], [2.0, 2.0, 2.0, 2.0]])
    expected = [np.std([1.0, 3.0, 5.0]), 0.0]
    assert spread_of(logits).tolist() == pytest.approx(expected, abs=1e-6)


def test_sums_of_a_pass_are_those_of_each_teachers_own_text():
    teacher, other = output(1, width=4), output(2, vocabulary="another")
    ctx = context(OutputConfig(kd=1, block=3), teacher, other)
    sums = pass_sums(ctx.outputs, SIGNALS)
    text = teacher.tokens.has_text
    entropy = spread = 0.0
    for model in (teacher, other):
        logits = (model.hidden @ model.head.weight.T)[text]
        entropy += float(Categorical(logits=logits).entropy().sum())
        spread += float(logits.std(-1, unbiased=False).sum())
    own = ctx.outputs.student
    logits = (own.hidden @ own.head.weight.T)[text].detach()
    count = int(text.sum())
    assert sums["tokens"] == 2 * count and sums["student_tokens"] == count
    assert sums["log_vocabulary"] == pytest.approx(2 * count * np.log(13))
    assert sums["teacher_entropy"] == pytest.approx(entropy, rel=1e-6)
    assert sums["teacher_spread"] == pytest.approx(spread, rel=1e-6)
    expected = float(logits.std(-1, unbiased=False).sum())
    assert sums["student_spread"] == pytest.approx(expected, rel=1e-6)
    assert sums["stretches"] > 0 and sums["loss_gap"] != 0
    only = pass_sums(ctx.outputs, frozenset({"teacher_entropy"}))
    assert only["teacher_entropy"] == sums["teacher_entropy"]
    assert only["teacher_spread"] == only["loss_gap"] == only["stretches"] == 0
