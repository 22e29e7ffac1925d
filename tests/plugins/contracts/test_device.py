"""Every part that calculates does so where its tensors are, and makes none elsewhere.

What a contract asks about is made on a device that this machine has not. A class of
ours that is a module has to have calculated there, here or in a whole run: one that is
new has to join.
"""

import importlib
import pkgutil
from functools import partial

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import align
import fuse
import student
import teacher
from align.position_mean import PositionMean
from align.schedules.losses import LossRecord
from align.schedules.seen import SUMS, SeenRecord
from fuse.beforehand.difficulty import DifficultyRouter
from fuse.routers.label import LabelRouter
from fuse.signals import Signals
from fuse.z.coder import LayerwiseCoder
from plugins import builtin
from plugins.contracts.check import CONTRACTS
from plugins.contracts.selector import candidates
from plugins.contracts.space import lesson
from student.balance.apart import DomainVectors
from student.balance.balancer import Standing
from student.balance.domains import DomainBalance
from student.balance.learned import GradNorm, Uncertainty
from student.bridges.standardize import Standardizer
from student.match.heads import HeadPairing
from student.match.layers.gradient import GradientLengths
from student.match.scales import Scales
from student.output.transport.solver import TransportSettings
from student.select.built_in import UnsureStudent
from student.select.selection import Selecting, Selection
from student.transforms import TRANSFORMS
from student.transforms.bias import Shifted
from student.transforms.fake_quant import FakeQuant
from teacher.loading.quantise import QuantisedLinear
from tests.all_there import all_there
from tests.elsewhere import ELSEWHERE, There, WrongDeviceError

IN_RUNS = "tests/experiments/runs/test_elsewhere.py sees to it"
HOOKS = {
    "router": builtin.routers,
    "selector": builtin.selectors,
    "distance": builtin.distances,
    "projector": builtin.projectors,
    "objective": builtin.objectives,
    "space": builtin.spaces,
}
ASKED = {
    "router": {"shape", "fitted", "weighs"},
    "selector": {"weighs", "cut"},
    "distance": {"shape"},
    "projector": {"shape", "fitted"},
    "objective": {"moves"},
    "space": {"calibrates", "own_losses", "injects"},
}
"""Promises of which each makes a part calculate."""
LEFT_OUT = {
    ("projector", "orthogonal", "fitted"),
    ("router", "difficulty", "weighs"),
    ("router", "label", "weighs"),
}
"""The stand-in's tensors cannot be assigned to a parametrised weight; and texts are
weighed before they are read by numbers of the CPU."""
IN_CONTRACTS = {
    "router": {
        *("ConfidenceRouter", "ConstantRouter", "FixedRouter", "LearnableRouter"),
        *("PrequentialRouter", "ScoreRouter", "SimilarityRouter"),
    },
    "selector": {
        *("ConfidentTeacher", "ExcessLoss", "Uncertain", "UnsureStudent"),
        *("RunningSketch", "Threshold"),
    },
    "projector": {"LayerwiseLinear", "Linear", "Mlp", "Orthogonal", "Pca"},
    "objective": {"DeepSupervision", "Match"},
    "space": {
        *("AdapterBridge", "LatentBridge", "ProjectorBridge"),
        *("LayerwiseCoder", "MultiTeacherHeadDimAdapter", "ZSpace"),
    },
}
"""Modules that calculate in a kind's contract, by kind."""
OTHERS = {
    "Bridge": "abstract",
    "DomainSums": "abstract",
    "Projector": "abstract",
    "_Changing": "of transforms that plugins bring",
    "Balance": IN_RUNS,
    "Distiller": IN_RUNS,
    "FixedWeigher": IN_RUNS,
    "Weigher": IN_RUNS,
}


def asked_of(promise):
    """The name of a promise's function."""
    of_module, *rest = (promise.found.func, *promise.found.args)
    return next((f for f in rest if hasattr(f, "__name__")), of_module).__name__


@pytest.fixture(autouse=True)
def nothing_kept():
    """What a contract keeps for its next question lies on one device or the other."""
    kept = (lesson._gathered, lesson._drawn)
    for cached in kept:
        cached.cache_clear()
    yield
    for cached in kept:
        cached.cache_clear()


@pytest.fixture
def few_iterations(monkeypatch):
    """Plans take hundreds, each of which calculates where the one before has."""
    init, many = TransportSettings.__init__, TransportSettings().iterations
    fewer = tuple(20 if value == many else value for value in init.__defaults__)
    monkeypatch.setattr(init, "__defaults__", fewer)
    assert TransportSettings().iterations == 20 < many


@pytest.mark.slow
@pytest.mark.parametrize("kind", ASKED)
def test_a_part_calculates_where_its_tensors_are(kind, few_iterations):
    wrong, missing = [], set(ASKED[kind])
    with all_there() as seen:
        for name, offered in HOOKS[kind]().items():
            for promise in CONTRACTS[kind](offered):
                asked = asked_of(promise)
                if asked not in ASKED[kind] or (kind, name, asked) in LEFT_OUT:
                    continue
                missing.discard(asked)
                result = promise.tried()
                if not result.ok:
                    wrong.append(f"{name}: {result.name}: {result.detail}")
    assert not wrong and not missing, "\n".join(wrong)
    assert IN_CONTRACTS.get(kind, set()) <= named(seen)


def losses():
    record = LossRecord(["ce", "kd"])
    yield record
    record.note([1.0, 2.0], 0)
    record.note([0.5, 2.0], 1)
    assert record.kept("ce", 2) < 1


def seen_outputs():
    record = SeenRecord()
    yield record
    for step in (0, 1):
        record.note_sums(dict.fromkeys(SUMS, 2.0), step)
    record.signals({"teacher_entropy", "logit_spread", "loss_gap"}, 2)


def selection():
    chosen = {"doubt": Selecting(UnsureStudent(("a", "b"), ("d",)), ("kv",), {})}
    made = Selection(chosen)
    yield made
    given = candidates(made.needs)
    assert made.weigh(given, torch.full((4, 9, 2), 0.5)).kv.device == ELSEWHERE


def shift():
    made = Shifted(torch.zeros(3))
    made.shifted = True
    yield made
    made(torch.ones(3))


def chosen_before_reading():
    every = nn.ModuleList([DifficultyRouter(4, 2), LabelRouter(4, 2)])
    yield every
    difficulty, label = every
    query, domains = torch.randn(3, 5, 4), ["a", "b", "a"]
    signals = Signals(teachers=["x", "y"], domains=domains)
    assert difficulty(query).device == label(query, signals).device == ELSEWHERE


def coder():
    made = LayerwiseCoder(2, width=4, z_dim=3, hidden=5)
    yield made
    assert made.decode(made.encode(torch.randn(2, 1, 3, 4))).device == ELSEWHERE


def apart():
    vectors = DomainVectors(["a", "b"], "mmd", width=4)
    yield vectors
    assert vectors.features(torch.randn(3, 4)).device == ELSEWHERE


def quantised():
    made = QuantisedLinear(nn.Linear(4, 3), "int8")
    yield made
    x = torch.randn(2, 4, requires_grad=True)
    made(x).sum().backward()
    assert x.grad.device == ELSEWHERE


def domains():
    balance = DomainBalance(["a", "b"])
    yield balance
    for step in (0, 1):
        balance.note(torch.ones(2), torch.ones(2), ["a", "b"], step=step)
    assert balance.weights(1.0, 2).tolist() == [1, 1]


def learned_weights():
    names = ("ce", "kd")
    both = nn.ModuleList([Uncertainty(names), GradNorm(names)])
    yield both
    for module in both:
        loss = module(standing(names)).loss
        assert loss.device == ELSEWHERE
        loss.backward()


def standing(names):
    """As a step hands it over: numbers of the CPU."""
    numbers = {"dtype": torch.float64, "device": "cpu"}
    return Standing(
        names=names,
        weights=torch.tensor([1.0, 2.0], **numbers),
        losses=torch.tensor([3.0, 4.0], **numbers),
        gram=torch.tensor([[1.0, 0.5], [0.5, 2.0]], **numbers),
        next_token=None,
        step=3,
        seed=0,
    )


def position_mean():
    mean = PositionMean(2, 4)
    yield mean
    mask = torch.tensor([[True, True, False]])
    mean.update(torch.randn(2, 1, 3, 4), mask)
    mean.fit()
    mean.to(ELSEWHERE)
    assert mean(torch.randn(2, 1, 3, 4), mask).device == ELSEWHERE


def scales():
    scales = Scales(4, {"a": 6}, layers=2)
    yield scales
    x, y = torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    for scale in ("channel", "layer"):
        scales.fit(scale, [("a", x, y)])
    scales("a", x[:, None], y[:, None])


def standardizer():
    made = Standardizer(2, 4)
    yield made
    made.fit(torch.zeros(2, 4), torch.ones(2, 4))
    made.layer_(1, made(torch.randn(2, 1, 3, 4))[1])
    made.sizes()


def gradient_lengths():
    lengths = GradientLengths(2)
    yield lengths
    features = torch.randn(2, 1, 3, 4, requires_grad=True)
    costs = features.square().mean((1, 2, 3))
    lengths.gather(lengths.of(costs, features, [0, 1]), list)
    lengths.turn(1)
    lengths.shares([0, 1])
    assert sorted(lengths.ranked()) == [0, 1]


def head_pairing():
    every = nn.ModuleList(map(HeadPairing, ("mean", "groups", "nearest", "hungarian")))
    for pairing in every:
        pairing.meet(2, {"a": 3}, layers=1)
    yield every
    for pairing in every:
        if pairing.chosen:
            pairing.fit({"a": torch.rand(1, 2, 3)})
        heads = (torch.rand(1, n, 1, 2, 2) for n in (2, 3))
        assert all(x.device == ELSEWHERE for x in pairing("a", *heads, [0]))


def transforms():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 32}
    counts = {"num_hidden_layers": 2, "num_attention_heads": 2}
    every = []
    learned = partial(FakeQuant, scales="learned")
    for factory in (*TRANSFORMS.values(), learned):
        with torch.device("cpu"):
            model = LlamaForCausalLM(LlamaConfig(**sizes, **counts))
        every.append((factory(), model))
    models = nn.ModuleList(model for _, model in every)
    yield models
    for made, model in every:
        made.attach(model)
        made.at(0.5, 1)
        for name, layer in model.named_modules():
            if name.endswith("_proj"):
                assert layer.weight.device == ELSEWHERE


BY_HAND = {
    losses: {"LossRecord"},
    seen_outputs: {"SeenRecord"},
    selection: {"Selection"},
    shift: {"Shifted"},
    chosen_before_reading: {"DifficultyRouter", "LabelRouter"},
    apart: {"DomainVectors"},
    coder: {"LayerwiseCoder", "_ResidualMlp"},
    quantised: {"QuantisedLinear"},
    domains: {"DomainBalance"},
    learned_weights: {"Uncertainty", "GradNorm"},
    position_mean: {"PositionMean"},
    scales: {"Scales"},
    standardizer: {"Standardizer"},
    gradient_lengths: {"GradientLengths"},
    head_pairing: {"HeadPairing"},
    transforms: {"Blended", "Blocks", "_Directions", "_Largest", "_Learned"},
}
"""Modules by how they are used: built here, moved there, and then asked."""


SLOW = {transforms}


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(use, id=use.__name__, marks=[pytest.mark.slow] * (use in SLOW))
        for use in BY_HAND
    ],
)
def test_a_module_that_was_moved_calculates_there(use):
    torch.manual_seed(0)
    steps = use()
    module = next(steps)
    with all_there() as seen:
        module.to(ELSEWHERE)
        assert next(steps, None) is None
    assert BY_HAND[use] <= named(seen), named(seen)


def named(seen):
    """The names of the classes that calculated."""
    return {place.rpartition(":")[2] for place in seen.classes}


def test_what_says_nothing_of_a_device_is_refused():
    with all_there():
        made = torch.ones(2)
        assert isinstance(made, There)
        with pytest.raises(WrongDeviceError, match=r"heads\.py:\d+ meet: .* says noth"):
            HeadPairing("nearest").meet(2, {"a": 2}, layers=1)


def modules():
    """The classes of ours that are modules, by name."""
    for package in (align, fuse, student, teacher):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    pending, every = [nn.Module], set()
    while pending:
        for kind in pending.pop().__subclasses__():
            pending.append(kind)
            every.add(kind)
    ours = ("align.", "fuse.", "student.", "teacher.")
    return {kind.__name__ for kind in every if kind.__module__.startswith(ours)}


def test_every_module_has_calculated_there():
    """A new one joins what a contract asks, or ``BY_HAND``, or a whole run."""
    joined = set(OTHERS).union(*IN_CONTRACTS.values(), *BY_HAND.values())
    assert modules() ^ joined == set()
