"""What is measured of encoder-decoders is of targets alone, against transformers."""

import pytest
import torch
from torch.nn import functional

from align.text.documents import TextSample
from align.tokens.answered import two_parts
from align.tokens.pairs import encode_pairs
from align.views import Output
from student.evaluators.agreement import Agreement
from student.evaluators.base import EvalContext, Subject
from student.evaluators.likelihood import Calibration, Perplexity
from student.output.across.signals import Sources, signals_of
from student.terms.next_token import _matched
from student.terms.signals import _text_of
from teacher.capture.pair_capture import PairCapture
from teacher.output_head import linear_head
from tests.seq2seq import TEXTS, inputs, model, tokenizer

END, MARK = tokenizer().eos_token_id, tokenizer().convert_tokens_to_ids("▁")


def encode(texts):
    return encode_pairs(tokenizer(), texts, tokenizer().pad_token_id, learn_end=True)


def subject(layers):
    whole, names = model("t5", layers=layers), tokenizer()
    return Subject(
        name=f"of {layers} layers",
        model=whole,
        capture=PairCapture(whole),
        tokenizer=names,
        encode=encode,
    )


@pytest.fixture(scope="module")
def ctx():
    samples = [TextSample(text, "pairs", str(n)) for n, text in enumerate(TEXTS)]
    student, teacher = subject(2), subject(3)
    return EvalContext(subject=student, teachers={"t": teacher}, samples=samples)


@pytest.fixture(scope="module")
def said(ctx):
    """Log-probabilities of student and teacher at the tokens that hold text, and what
    came, by transformers alone."""
    given = inputs(TEXTS)
    labels = given["labels"]
    kept = (labels >= 0) & ~torch.isin(labels, torch.tensor([END, MARK]))
    with torch.no_grad():
        logits = [s.model(**given).logits for s in (ctx.subject, ctx.teachers["t"])]
    return *(x[kept].log_softmax(-1) for x in logits), labels[kept]


def test_evaluators_count_no_token_of_a_source(ctx, said):
    student, teacher, came = said
    perplexity = Perplexity()(ctx).values["perplexity"]["pairs"]
    expected = functional.nll_loss(student, came).exp()
    assert perplexity == pytest.approx(float(expected), rel=1e-5)
    right = (student.argmax(-1) == came).float().mean()
    accuracy = Calibration()(ctx).values["top1_accuracy"]["pairs"]
    assert accuracy == pytest.approx(float(right))
    values = Agreement()(ctx).values
    same = (student.argmax(-1) == teacher.argmax(-1)).float().mean()
    assert values["top1_agreement"]["of 3 layers/pairs"] == pytest.approx(
        100 * float(same), rel=1e-5
    )
    kl = (teacher.exp() * (teacher - student)).sum(-1).mean() / torch.tensor(2.0).log()
    measured = values["kl_from_teacher"]["of 3 layers/pairs"]
    assert measured == pytest.approx(float(kl), rel=1e-4)


def test_an_encoder_has_no_entropy(ctx):
    batch, capture = encode(TEXTS), ctx.subject.capture
    with torch.no_grad():
        hidden = capture(batch.ids, batch.mask, layers=(), hidden=True).hidden
    output = Output(batch, hidden, linear_head(capture), "words")
    source, target = two_parts(batch.mask)
    sources = Sources(batch=batch, views=(), student=output, vocabulary="words")
    entropy = signals_of(frozenset({"student_entropy"}), sources).student_entropy
    assert torch.equal(entropy.isfinite(), target)
    assert len(_text_of(output).hidden) == int((target & batch.has_text).sum())
    mine, theirs = _matched(batch, batch)
    assert torch.equal(mine, target & batch.has_text) and torch.equal(mine, theirs)
    assert not bool((mine & source).any())
