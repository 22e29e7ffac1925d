"""Perplexity and calibration against sums in float64 over transformers' own logits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from align.errors import InputError
from align.text.documents import TextSample
from plugins.contracts.models.evaluator import small_context
from student.evaluate import bits_per_char
from student.evaluators.likelihood import BitsPerChar, Calibration, Perplexity, _binned


@pytest.fixture(scope="module")
def ctx():
    return small_context(())


def probabilities(ctx, domain):
    """Every predicted token's distribution in float64, and what came."""
    rows, came = [], []
    model = ctx.subject.model
    for sample in ctx.samples:
        if sample.domain == domain:
            ids = torch.tensor([ctx.subject.tokenizer(sample.text)["input_ids"]])
            logits = model(input_ids=ids).logits[0, :-1].double()
            rows.append(logits.softmax(-1).detach().numpy())
            came += ids[0, 1:].tolist()
    return np.concatenate(rows), np.array(came)


def test_perplexity_is_that_of_all_tokens_of_a_domain(ctx):
    found = Perplexity()(ctx).values["perplexity"]
    assert list(found) == ["prose", "code"]
    for domain, perplexity in found.items():
        p, came = probabilities(ctx, domain)
        nats = -np.log(p[np.arange(len(came)), came]).mean()
        assert perplexity == pytest.approx(math.exp(nats), rel=1e-5)


def test_bits_per_char_are_those_of_every_run(ctx):
    subject = ctx.subject
    alone = bits_per_char(subject.capture, subject.encode, ctx.samples)
    assert BitsPerChar()(ctx).values == {"bits_per_char": alone}


def test_calibration_is_binned_by_confidence_as_guo_et_al_do(ctx):
    sharp = replace(ctx.subject, capture=Sharper(ctx.subject.capture))
    values = Calibration(bins=7)(replace(ctx, subject=sharp)).values
    for domain in ctx.domains:
        p, came = probabilities(ctx, domain)
        p = p**Sharper.BY / (p**Sharper.BY).sum(1, keepdims=True)
        sure, right = p.max(1), p.argmax(1) == came
        error = 0.0
        for low in np.arange(7) / 7:
            inside = (sure > low) & (sure <= low + 1 / 7)
            if inside.any():
                gap = abs(sure[inside].mean() - right[inside].mean())
                error += inside.mean() * gap
        assert values["calibration_error"][domain] == pytest.approx(error, abs=1e-5)
        assert values["confidence"][domain] == pytest.approx(sure.mean(), rel=1e-4)
        assert values["top1_accuracy"][domain] == pytest.approx(right.mean())


class Sharper:
    """The same model, surer: random weights alone would fill one bin."""

    BY = 40

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, *given, **asked):
        captured = self.inner(*given, **asked)
        return replace(captured, logits=captured.logits * self.BY)


def test_a_sure_and_right_model_is_calibrated():
    logits = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    count, sure, right = torch.tensor(_binned(logits, torch.tensor([0, 1]), 4)).view(
        3, 4
    )
    assert count.tolist() == right.tolist() == [0, 0, 0, 2]
    assert sure.tolist() == pytest.approx([0, 0, 0, 2])


def test_text_of_one_token_is_refused_by_its_domain(ctx):
    short = replace(ctx, samples=[TextSample("a", "letters", "1")])
    for evaluator in (Perplexity(), Calibration()):
        with pytest.raises(InputError, match="domain 'letters' has no token"):
            evaluator(short)
    with pytest.raises(InputError, match="there is none; give some by --data"):
        Perplexity()(replace(ctx, samples=[]))
