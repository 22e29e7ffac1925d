"""Two vocabularies so small that every outcome can be written down."""

import math
from dataclasses import replace

import pytest
import torch

from align.views import LinearHead
from student.output.across.lexicon import chains_of, projected_divergence
from student.output.across.vocabulary import CommonPieces
from student.output.divergence.linear_blocks import linear_blocks
from student.output.divergence.row_divergence import Divergence

STUDENT = ["a", "b", "c", "ab", "<s>"]
TEACHER = ["b", "a", "abc", "c", "ca"]
PIECES = ["a", "b", "c"]


def first_piece(token: str) -> int:
    return PIECES.index(token[0]) if token[0] in PIECES else -1


COMMON = CommonPieces(
    torch.tensor([first_piece(t) for t in STUDENT]),
    torch.tensor([first_piece(t) for t in TEACHER]),
    len(PIECES),
)


def model(seed: int, vocabulary: list[str]):
    """Hidden states of 4 places, and a head."""
    drawn = torch.Generator().manual_seed(seed)
    weight = torch.randn(len(vocabulary), 3, generator=drawn, dtype=torch.float64)
    hidden = torch.randn(4, 3, generator=drawn, dtype=torch.float64)
    return hidden, LinearHead(weight)


def said(hidden, head, vocabulary) -> list[dict[str, float]]:
    rows = (hidden @ head.weight.T).softmax(-1).tolist()
    return [dict(zip(vocabulary, row, strict=True)) for row in rows]


def by_piece(row: dict[str, float]) -> dict[str, float]:
    return {p: sum(v for t, v in row.items() if t[0] == p) for p in PIECES}


def kl(p: dict[str, float], q: dict[str, float], temperature: float = 1.0) -> float:
    """Between tempered and renormalised distributions, outcome by outcome."""
    p, q = ({k: v ** (1 / temperature) for k, v in x.items()} for x in (p, q))
    z, w = sum(p.values()), sum(q.values())
    each = (v / z * math.log((v / z) / (q[k] / w)) for k, v in p.items() if v)
    return temperature**2 * sum(each)


WEIGHT = torch.tensor([1.0, 0.5, 2.0, 0.0])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_it_is_the_divergence_of_what_begins_with_the_same_piece(temperature):
    student, teacher = model(0, STUDENT), model(1, TEACHER)
    rows = [said(*m, v) for m, v in ((student, STUDENT), (teacher, TEACHER))]
    each = [
        kl(by_piece(t), by_piece(s), temperature) for s, t in zip(*rows, strict=True)
    ]
    got = projected_divergence(
        *student, *teacher, COMMON, temperature=temperature, weight=WEIGHT, block=3
    )
    expected = sum(w * x for w, x in zip(WEIGHT.tolist(), each, strict=True))
    assert got.item() == pytest.approx(expected, rel=1e-10)


# What came at the four places: "abc" as ab+c and as abc; "ca" as c+a and as ca; "b" by
# one token of both; "ab" as ab and as a+b.
CAME = [(["ab", "c"], ["abc"]), (["c", "a"], ["ca"]), (["b"], ["b"]), (["ab"], "ab")]
LATER = [0.3, 0.6, 1.0, 1.0], [1.0, 1.0, 1.0, 0.2]
"""Probability of the tokens after the first of each stretch, in either model."""


def chains(student, teacher):
    sides = []
    for m, vocabulary, side in ((student, STUDENT, 0), (teacher, TEACHER, 1)):
        tokens = [stretch[side] for stretch in CAME]
        first = torch.tensor([vocabulary.index(t[0]) for t in tokens])
        log_p = (m[0] @ m[1].weight.T).log_softmax(-1)
        own = log_p.gather(1, first[:, None])[:, 0] + torch.tensor(LATER[side]).log()
        sides.append((own, first, torch.tensor([len(t) for t in tokens])))
    return chains_of(COMMON, *sides)


def test_a_stretch_that_came_is_an_outcome_by_the_product_of_its_tokens():
    student, teacher = model(0, STUDENT), model(1, TEACHER)
    found = chains(student, teacher)
    assert found.separate.tolist() == [True, True, False, True]
    each = []
    for n, (s, t) in enumerate(
        zip(said(*student, STUDENT), said(*teacher, TEACHER), strict=True)
    ):
        rows = []
        for row, tokens, later in zip((s, t), CAME[n], LATER, strict=True):
            pieces, came = by_piece(row), row[tokens[0]] * later[n]
            if found.separate[n]:
                pieces[tokens[0][0]] -= came
                pieces["came"] = came
            rows.append(pieces)
        each.append(kl(rows[1], rows[0]))
    got = projected_divergence(
        *student, *teacher, COMMON, weight=torch.ones(4), chains=found, block=3
    )
    assert got.item() == pytest.approx(sum(each), rel=1e-6)


def test_gradients_are_those_of_finite_differences_through_both_ways():
    (hidden, head), teacher = model(0, STUDENT), model(1, TEACHER)
    base = chains((hidden, head), teacher)

    def loss(hidden, weight, chain):
        own = replace(base, student=chain)
        return projected_divergence(
            hidden,
            LinearHead(weight),
            *teacher,
            COMMON,
            settings=Divergence("jensen_shannon"),
            temperature=1.5,
            weight=WEIGHT,
            chains=own,
            block=3,
        )

    inputs = [x.clone().requires_grad_() for x in (hidden, head.weight, base.student)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_a_stretch_as_likely_as_its_piece_leaves_finite_numbers():
    student, teacher = model(0, STUDENT), model(1, TEACHER)
    found = chains(student, teacher)
    certain = replace(found, teacher=torch.zeros(4), student=torch.zeros(4))
    certain.student.requires_grad_()
    loss = projected_divergence(
        *student, *teacher, COMMON, weight=torch.ones(4), chains=certain
    )
    loss.backward()
    assert loss.isfinite() and certain.student.grad.isfinite().all()


def test_blocks_may_be_gone_through_twice_and_a_wrong_shape_is_named():
    hidden, head = model(0, STUDENT)
    hidden.requires_grad_()
    loss = linear_blocks(hidden, head, lambda logits, _, rows: logits.sum())
    loss.backward(retain_graph=True)
    torch.testing.assert_close(hidden.grad, head.weight.sum(0).expand(4, 3))
    loss.backward()
    torch.testing.assert_close(hidden.grad, 2 * head.weight.sum(0).expand(4, 3))
    with pytest.raises(ValueError, match=r"beside has shape \(3,\) for 4 rows"):
        linear_blocks(hidden, head, lambda logits, _, rows: logits.sum(), torch.ones(3))
