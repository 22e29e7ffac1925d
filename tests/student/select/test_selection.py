"""What selectors leave of a pass, by hand; and what is said of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from align.errors import InputError
from align.text.documents import TextSample
from align.tokens.kinds import kinds_of_tokens
from fuse.signals import Signals
from plugins.contracts.step import step_context
from student.config import LossConfig
from student.objective import HiddenOutput
from student.places import Selected
from student.select import Candidates, Selection
from student.select.kept import Kept
from student.select.selection import PATIENCE, Selecting
from student.terms.key_value import ce


def selecting(weight, on, **options):
    """A selector with one answer."""

    class Fixed:
        needs = frozenset()

        def __call__(self, candidates):
            return torch.tensor(weight)

    return Selecting(Fixed(), on, options)


def candidates(texts=1, tokens=3, teachers=2):
    known = torch.ones(texts, tokens, teachers, dtype=torch.bool)
    return Candidates(signals=Signals(teachers=["a", "b"][:teachers]), known=known)


ROUTING = torch.tensor([[[0.25, 0.75], [1.0, 0.0], [0.0, 0.0]]])
BY_TEACHER = [[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]


def test_weights_reach_what_they_are_meant_for():
    selection = Selection(
        {
            "by-teacher": selecting(BY_TEACHER, ["kv", "outputs", "next_token"]),
            "by-place": selecting([[2.0, 3.0, 4.0]], ["kv"]),
        }
    )
    left = selection.weigh(candidates(), ROUTING)
    assert left.kv.tolist() == [[[2, 0], [0, 3], [0, 0]]]
    # what is predicted at a place counts as the place: one token later
    assert left.outputs.tolist() == [[[1, 1], [1, 0], [0, 1]]]
    # over teachers by their weights; nobody is there at the last place
    assert left.next_token.tolist() == [[1, 0.25, 0]]
    assert left.weights["by-teacher"].tolist() == [[0.25, 0, 1]]
    assert left.kept == {"by-teacher": (2, 3), "by-place": (3, 3), "all": (2, 3)}
    by_layer = torch.stack([2 * ROUTING, 0 * ROUTING])  # their mean is the same
    assert torch.equal(
        selection.weigh(candidates(), by_layer).next_token, left.next_token
    )


def test_one_everywhere_is_no_selection():
    ones = selecting([[1.0, 1.0, 1.0]], ["kv", "outputs", "next_token"])
    left = Selection({"ones": ones}).weigh(candidates(), ROUTING)
    assert left.kv is left.outputs is left.next_token is None
    assert left.kept == {"ones": (3, 3)}


def test_keeping_nothing_for_long_is_named_with_the_share_and_the_options():
    nothing = selecting([[0.0] * 3], ["kv"], threshold=9.0)
    selection = Selection({"uncertain": nothing})
    left = selection.weigh(candidates(), ROUTING).kept
    for _ in range(PATIENCE - 1):
        selection.check(left)
    selection.check({"uncertain": (1.0, 3.0)})  # it begins again
    for _ in range(PATIENCE - 1):
        selection.check(left)
    again = Selection({"uncertain": nothing})
    again.load_state_dict(selection.state_dict())
    with pytest.raises(InputError, match="uncertain a share of 0 of 3") as caught:
        again.check(left)
    assert "loss.select.uncertain is {'threshold': 9.0}" in str(caught.value)


def test_what_learns_is_refused():
    learning = Selecting(torch.nn.Linear(1, 1), ["kv"], {})
    learning.selector.needs = frozenset()
    with pytest.raises(InputError, match=r"loss\.select\.mine has parameters"):
        Selection({"mine": learning})


@pytest.mark.parametrize("hidden", [True, False], ids=["blocks", "logits"])
def test_the_next_token_is_a_mean_over_what_is_selected(hidden):
    ctx = step_context(size=7)[0]
    labelled = ctx.batch.predicted.float()
    chosen = torch.rand(labelled.shape, generator=torch.Generator().manual_seed(5))
    chosen = chosen * (chosen > 0.4)
    if not hidden:
        ctx = replace(ctx, output=ctx.logits)
    assert isinstance(ctx.output, HiddenOutput) == hidden
    each = F.cross_entropy(
        ctx.logits[:, :-1].transpose(1, 2), ctx.batch.ids[:, 1:], reduction="none"
    )
    weight = (labelled * chosen)[:, 1:]
    expected = (each * weight).sum() / weight.sum()
    torch.testing.assert_close(ce(replace(ctx, by_token=chosen)), expected)
    assert float(ce(replace(ctx, by_token=0 * chosen))) == 0


def test_kinds_of_tokens():
    text = "The 3rd un_kept; naïve"
    spans = [(0, 3), (3, 4), (4, 5), (5, 7), (7, 10), (10, 15), (15, 16), (16, 19)]
    spans += [(19, 22), (22, 22)]
    assert kinds_of_tokens(text, spans) == [
        *("word", "blank", "number", "word", "word", "piece", "mark", "word", "piece"),
        "",
    ]


def test_what_is_kept_is_summed_by_domain_and_kind():
    ctx = step_context(size=7)[0]
    batch, texts = ctx.batch, len(ctx.batch.ids)
    samples = [
        TextSample("word 12; more words, and all that", f"domain-{i % 2}", str(i))
        for i in range(texts)
    ]
    weight = torch.zeros(batch.ids.shape)
    weight[0] = 2
    left = Selected(weights={"mine": weight}, counted=batch.has_text)
    kept = Kept()
    for _ in range(2):
        kept.update(left, SimpleNamespace(batch=batch, samples=samples))
    line = kept.line(7)
    counts = batch.has_text.sum(1).double()
    said = line["selectors"]["mine"]
    assert line["step"] == 7
    assert said["kept"] == pytest.approx(float(counts[0] / counts.sum()))
    assert said["domains"]["domain-0"] == pytest.approx(
        float(2 * counts[0] / counts[::2].sum())
    )
    example = line["example"]
    assert len(example["pieces"]) == len(example["weights"]["mine"])
    assert set(example["weights"]["mine"]) <= {2.0, None}


@pytest.mark.parametrize(
    ("select", "named"),
    [
        ({"Uncertain": {}}, "lower-case"),
        ({"uncertain": 3}, "give a mapping"),
        ({"mine": {"use": 3}}, "registered"),
        ({"mine": {"use": "uncertain", "on": ["keys"]}}, "any of kv, outputs"),
        ({"mine": {"use": "uncertain", "on": []}}, "any of kv, outputs"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(select, named):
    with pytest.raises(ValueError, match=rf"loss\.select.*{named}"):
        LossConfig(select=select)
    chosen = LossConfig(
        select={"mine": {"use": "uncertain", "on": "kv", "of": "student"}}
    )
    (each,) = chosen.selectors.values()
    assert (each.kind, each.on, each.options) == (
        "uncertain",
        ("kv",),
        {"of": "student"},
    )
