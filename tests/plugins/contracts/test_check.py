"""Contracts pass what is right and name what is wrong."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from align.layer_map import LayerMap
from align.tokenizer_align import CharIoUAligner
from fuse.routers.prequential import PrequentialRouter
from fuse.routers.router import LearnableRouter
from plugins import PluginError, Registry
from plugins.contracts.check import assert_contract, check
from student.objective import Term
from student.terms.key_value import kv_k
from tests.everyday import some_daily

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # a table stays a table

BUILT_IN = Registry.load(entry_points=False).entries()
DEAR = {
    "distance": ("transport",),
    "evaluator": ("speed",),
    "layer_map": ("cka", "reconstruction"),
    "objective": ("hybrid_ot", "sequence_ot", "projected_kl", "likelihood"),
    "space": ("losses", "student", "z"),
    "teacher_source": ("checkpoint", "ema", "phase", "pkg", "self", "zoo"),
    "transform": ("block_sparse", "fake_quant", "low_rank"),
}


@pytest.mark.parametrize(
    "entry",
    some_daily(
        BUILT_IN,
        daily=lambda entry: entry.name not in DEAR.get(entry.kind, ()),
        name=lambda entry: f"{entry.kind}-{entry.name}",
    ),
)
def test_every_built_in_keeps_its_contract(entry):
    results = check(entry.kind, entry.value)
    assert len(results) >= 2
    assert not [result for result in results if not result.ok]


class Peeking(PrequentialRouter):
    """Weighs a token by what that very token was told."""

    def forward(self, query, signals):
        return (signals.foretold * signals.ends[..., None]).nan_to_num().softmax(-1)


def broken(kind, offered):
    return {r.name: r.detail for r in check(kind, offered) if not r.ok}


class LeakyAligner(CharIoUAligner):
    causal = True

    def __init__(self):
        pass


class HalfAligner:
    causal = False

    def __call__(self, student, teacher):
        found = CharIoUAligner()(student, teacher)
        return replace(found, weights=found.weights / 2)


class RawScores(nn.Linear):
    """A router that forgot the softmax."""


class BatchNormRouter(nn.Module):
    def __init__(self, hidden_dim, num_teachers):
        super().__init__()
        self.score = nn.Linear(hidden_dim, num_teachers)

    def forward(self, query):
        scores = self.score(query.float())
        return (scores - scores.mean(0)).softmax(-1)


class DetachedRouter(LearnableRouter):
    def forward(self, query, available=None):
        return super().forward(query, available).detach().requires_grad_()


def nan_without_weight(ctx):
    return sum(
        ((c.pred_k - c.target_k).square().mean((0, 3)) * c.weight).sum()
        / c.weight.sum()
        for c in ctx.comparisons
    )


def writes_to_targets(ctx):
    for comparison in ctx.comparisons:
        comparison.target_k.mul_(2)
    return kv_k(ctx)


@pytest.mark.parametrize(
    ("kind", "offered", "promise", "detail"),
    [
        ("aligner", LeakyAligner, "no future leaks if it says so", "future leaks"),
        ("aligner", HalfAligner, "the weights of a student", "sums are"),
        ("aligner", lambda: max, "says whether it is causal", "causal is None"),
        (
            "layer_map",
            lambda t, s: LayerMap((((t, 1.0),),) * s),
            "asks for layers that exist",
            "layer 24 of 24",
        ),
        (
            "layer_map",
            lambda t, s: LayerMap((((0, 1.0),),)),
            "returns a LayerMap with one",
            "1 entries for 24",
        ),
        (
            "adapter",
            lambda s: (torch.zeros(2, s.dim_x, s.dim_y), torch.zeros(2, s.dim_y)),
            "keeps some",
            "does not vary",
        ),
        (
            "adapter",
            lambda s: (s.cov_xy / 0, s.mean_y),
            "is finite",
            "not finite for 12 -> 8",
        ),
        ("rope_scaler", lambda b, d, s: b * s + 1, "scale 1 returns", "gives 10001"),
        ("rope_scaler", lambda b, d, s: b / s, "bases are finite", "at scales"),
        ("router", RawScores, "weights are >= 0", "negative"),
        ("router", BatchNormRouter, "answers each query by itself", "its batch"),
        ("router", Peeking, "weights at a token depend on", "later ones are told"),
        ("router", DetachedRouter, "its weights have a finite", "no parameter"),
        (
            "objective",
            lambda: Term(nan_without_weight),
            "is finite where nothing",
            "nan without coverage",
        ),
        (
            "objective",
            lambda: Term(writes_to_targets),
            "leaves its input",
            "writes to comparisons.0.target_k",
        ),
        (
            "objective",
            lambda: Term(kv_k, frozenset({"thoughts"})),
            "says what it needs",
            "thoughts",
        ),
        ("phase", {"optimizer": {}}, "has known sections only", "optimizer"),
        ("phase", {"fuse": {"temprature": 1}}, "its settings exist", "'temprature'"),
        ("phase", {"loss": {"lambda_k": -1}}, "its settings exist", "lambda_k"),
        ("phase", {"train": 3}, "each section is a mapping", "train"),
        ("phase", {"align": {"nonsense": 1}}, "its settings exist", "'nonsense'"),
        ("phase", {"align": {"min_coverage": 2}}, "its settings exist", "in [0, 1]"),
        ("phase", {"teachers": {"most": 1}}, "its settings exist", "'most'"),
        ("phase", {"teachers": {"min": -1}}, "its settings exist", "teachers.min"),
    ],
)
def test_a_broken_plugin_is_told_which_promise_it_breaks(
    kind, offered, promise, detail
):
    found = broken(kind, offered)
    name = next((name for name in found if name.startswith(promise)), None)
    assert name is not None, found
    assert detail in found[name]


def test_what_raises_is_reported_and_the_rest_still_tried():
    results = check("router", lambda hidden_dim, num_teachers: 1 / 0)
    assert len(results) == 10
    assert all("ZeroDivisionError" in result.detail for result in results)


def test_assert_contract_lists_everything_broken():
    assert_contract("router", LearnableRouter)
    with pytest.raises(PluginError, match=r"contract:\n- maps .*\n- weights are >= 0"):
        assert_contract("router", RawScores)
    with pytest.raises(PluginError, match="'optimizer' is no kind of plugin"):
        check("optimizer", dict)


def test_a_phase_may_name_its_teachers_by_a_list():
    results = check("phase", {"title": "two", "teachers": ["a", "b"]})
    assert [result.detail for result in results if not result.ok] == []
