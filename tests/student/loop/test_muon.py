"""Muon for the student's matrices, beside AdamW for the rest."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from align.support.matrices import Layout, hidden_matrices
from student.config import LossConfig, TrainConfig
from student.distiller import Distiller, WeightedObjective
from student.loop.engine import parameter_groups
from student.loop.muon import LAYOUTS, MATRICES, MuonAdamW
from student.loop.optimizer_state import build_optimizer
from student.terms.key_value import OBJECTIVES
from teacher.capture.kv_capture import KVCapture

MUON = TrainConfig(
    steps=6,
    batch_size=2,
    engine="torch",
    log_every=1,
    optimizer="muon",
    learning_rate=4e-3,
)


def test_each_group_is_stepped_by_pytorchs_own_optimiser():
    torch.manual_seed(0)
    matrix, vector = torch.randn(6, 4), torch.randn(5)
    grads = [(torch.randn(6, 4), torch.randn(5)) for _ in range(3)]

    def after(build):
        m, v = torch.nn.Parameter(matrix.clone()), torch.nn.Parameter(vector.clone())
        optimizers = build(m, v)
        for grad_m, grad_v in grads:
            m.grad, v.grad = grad_m.clone(), grad_v.clone()
            for optimizer in optimizers:
                optimizer.step()
        return m.detach(), v.detach()

    def together(m, v):
        groups = [
            {"params": [m], "lr": 0.1, "weight_decay": 0.3, MATRICES: True},
            {"params": [v], "lr": 0.2, "weight_decay": 0.0, MATRICES: False},
        ]
        return [MuonAdamW(groups, (0.9, 0.95))]

    def apart(m, v):
        return [
            torch.optim.Muon([m], lr=0.1, weight_decay=0.3),
            torch.optim.AdamW([v], lr=0.2, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    for found, expected in zip(after(together), after(apart), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_wide_steps_are_muons_with_products_in_double_precision(shape):
    torch.manual_seed(0)
    start, grads = torch.randn(shape), torch.randn(3, *shape)
    found, narrow = (torch.nn.Parameter(start.clone()) for _ in range(2))
    groups = [{"params": [found], "lr": 0.1, "weight_decay": 0.3, MATRICES: True}]
    wide = MuonAdamW(groups, (0.9, 0.95), wide=True)
    pytorchs = torch.optim.Muon([narrow], lr=0.1, weight_decay=0.3)
    expected, momentum = start.double().numpy(), np.zeros(shape)
    for grad in grads:
        found.grad, narrow.grad = grad.clone(), grad.clone()
        wide.step()
        pytorchs.step()
        g = grad.double().numpy()
        momentum = 0.95 * momentum + 0.05 * g
        u, s, v = np.linalg.svd(0.05 * g + 0.95 * momentum, full_matrices=False)
        s = s / np.sqrt((s**2).sum())
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        update = 0.1 * max(1, shape[0] / shape[1]) ** 0.5 * (u * s) @ v
        expected = expected * (1 - 0.1 * 0.3) - update
    np.testing.assert_allclose(found.detach(), expected, rtol=0, atol=1e-5)
    # PyTorch's own is the same but for bfloat16: 3 steps of 0.1, each to a few percent
    torch.testing.assert_close(found, narrow, rtol=0, atol=0.02)
    assert not torch.equal(found, narrow)


def test_a_run_takes_wide_steps_unless_its_products_are_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    matrix = torch.nn.Parameter(torch.eye(3))
    groups = [{"params": [matrix], "lr": 0.1, "weight_decay": 0.0, MATRICES: True}]
    for bf16 in (True, False):
        config = TrainConfig(optimizer="muon", bf16=bf16)
        (part,) = build_optimizer(groups, config)._parts.values()
        assert (type(part) is torch.optim.Muon) == bf16


def test_a_learning_rate_set_on_a_group_is_felt_by_both():
    m, v = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    groups = [
        {"params": [m], "lr": 0.1, "weight_decay": 0.0, MATRICES: True},
        {"params": [v], "lr": 0.1, "weight_decay": 0.0, MATRICES: False},
    ]
    optimizer = MuonAdamW(groups, (0.9, 0.95))
    optimizer.load_state_dict(optimizer.state_dict())  # as accelerate does
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    m.grad, v.grad = torch.ones(2, 2), torch.ones(2)
    optimizer.step()
    assert bool((m == 1).all()) and bool((v == 1).all())


def test_only_the_students_inner_matrices_are_muons(school):
    lesson = school.lesson("projector", routed=True)
    groups = parameter_groups(lesson.distiller, MUON)
    names = {id(p): name for name, p in lesson.distiller.named_parameters()}
    chosen = {names[id(p)] for g in groups if g[MATRICES] for p in g["params"]}
    expected = {
        name
        for name, p in lesson.distiller.named_parameters()
        if ".layers." in name and p.dim() == 2 and name.startswith("student.")
    }
    assert chosen == expected and expected
    (group,) = [g for g in groups if g[MATRICES]]
    assert group["lr"] == 0.02 and group["weight_decay"] == 0.01
    adamw = parameter_groups(lesson.distiller, replace(MUON, optimizer="adamw"))
    assert len(adamw) == len(groups) - 1 and MATRICES not in adamw[0]


def test_both_rates_are_reported_also_where_only_matrices_learn(school, start_engine):
    lesson = school.lesson(None)
    for parameter in lesson.distiller.parameters():  # as LoRA leaves a student
        parameter.requires_grad_(id(parameter) in hidden_matrices(lesson.model))
    config = replace(MUON, warmup_steps=3)
    with start_engine(config).prepared(lesson.distiller, config, 6) as prepared:
        rates = prepared.set_learning_rate(0)
    assert rates == {"lr": pytest.approx(1e-3), "matrix_lr": pytest.approx(0.005)}


def test_an_untied_head_and_tables_are_no_hidden_matrices():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(5, 3)
            self.inner = torch.nn.Linear(3, 3)
            self.out = torch.nn.Linear(3, 5)

        def get_output_embeddings(self):
            return self.out

    model = Model()
    assert hidden_matrices(model) == {id(model.inner.weight)}


@pytest.fixture(scope="module")
def gpt2():
    """A GPT-2 of two layers in float64."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 23}
    config = transformers.GPT2Config(**sizes, n_positions=12, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config).double().eval()


class Apart(torch.nn.Module):
    """Queries, keys and values by layers of their own, for a ``c_attn``."""

    def __init__(self, parts):
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, hidden):
        return torch.cat([part(hidden) for part in self.parts], dim=-1)


def _upright(conv, maps):
    """The same function as a ``Conv1D`` by ``nn.Linear`` alone."""
    linears = []
    for weight, bias in zip(
        conv.weight.T.chunk(maps), conv.bias.chunk(maps), strict=True
    ):
        linear = torch.nn.Linear(*weight.T.shape, dtype=torch.float64)
        linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
        linears.append(linear)
    return Apart(linears) if maps > 1 else linears[0]


def _distiller(model):
    terms = {"ce": WeightedObjective(1.0, OBJECTIVES["ce"]())}
    return Distiller(model, KVCapture(model), terms, LossConfig())


def test_gpt2_takes_the_steps_of_a_student_whose_maps_are_layers_of_their_own(gpt2):
    joined, apart = deepcopy(gpt2), deepcopy(gpt2)
    for block in apart.transformer.h:
        block.attn.c_attn = _upright(block.attn.c_attn, 3)
        block.attn.c_proj = _upright(block.attn.c_proj, 1)
        block.mlp.c_fc = _upright(block.mlp.c_fc, 1)
        block.mlp.c_proj = _upright(block.mlp.c_proj, 1)
    matrices = [p for p in apart.transformer.h.parameters() if p.dim() == 2]
    rest = [p for p in apart.parameters() if all(p is not m for m in matrices)]
    assert len(matrices) == 2 * (3 + 1 + 2)
    rates = {"betas": (0.9, 0.95), "lr": 4e-3}
    vectors = [p for p in rest if p.dim() == 1]
    tables = [p for p in rest if p.dim() == 2]
    expected = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(tables, weight_decay=0.01, **rates),
        torch.optim.AdamW(vectors, weight_decay=0.0, **rates),
    ]
    ours = [MuonAdamW(parameter_groups(_distiller(joined), MUON), (0.9, 0.95))]
    ids = torch.arange(20).view(2, 10)
    for _ in range(3):
        for model, optimizers in ((joined, ours), (apart, expected)):
            model.zero_grad()
            model(ids, labels=ids).loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    for ours_, theirs in zip(joined.transformer.h, apart.transformer.h, strict=True):
        split = [part.weight for part in theirs.attn.c_attn.parts]
        both = [(ours_.attn.c_attn.weight.T, torch.cat(split))]
        for name in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            layers = ours_.get_submodule(name), theirs.get_submodule(name)
            both.append((layers[0].weight.T, layers[1].weight))
        for found, reference in both:
            torch.testing.assert_close(found, reference, atol=1e-9, rtol=0)
    moved = joined.transformer.h[0].attn.c_attn.weight - (
        gpt2.transformer.h[0].attn.c_attn.weight
    )
    assert moved.abs().max() > 0.01


def test_the_momentum_of_a_matrix_that_is_taken_apart_has_the_matrixs_shape():
    grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    matrix = torch.nn.Parameter(torch.zeros(4, 6))
    layout = Layout(
        on_side=True, maps=(torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5]))
    )
    group = {"params": [matrix], "lr": 0.1, "weight_decay": 0.0, MATRICES: True}
    optimizer = MuonAdamW([{**group, LAYOUTS: [layout]}], (0.9, 0.95))
    optimizer.load_state_dict(optimizer.state_dict())  # as accelerate does
    matrix.grad = grad.clone()
    optimizer.step()
    # What earlier checkpoints hold of it, too: 0.95 * 0 + 0.05 * gradient.
    held = optimizer.state[matrix]
    assert set(held) == {"step", "momentum_buffer"} and held["step"] == 1
    torch.testing.assert_close(held["momentum_buffer"], 0.05 * grad)


def test_processes_keep_the_state_of_whole_parameters_and_step_them_for_all(
    monkeypatch,
):
    torch.manual_seed(0)
    shapes = [(6, 4), (4, 4), (3, 5), (7,), (2, 2), (3,)]
    start, slopes = ([torch.randn(shape) for shape in shapes] for _ in range(2))

    def optimizer(rank, world_size):
        parameters = [torch.nn.Parameter(value.clone()) for value in start]
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope.clone()
        rates = {"lr": 0.1, "weight_decay": 0.3}
        groups = [
            {"params": parameters[:3], MATRICES: True, **rates},
            {"params": parameters[3:], MATRICES: False, **rates},
        ]
        made = MuonAdamW(groups, (0.9, 0.95), rank=rank, world_size=world_size)
        return made, parameters

    alone, expected = optimizer(0, 1)
    alone.step()
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: None)
    keepers = []
    for rank in range(2):
        shared, parameters = optimizer(rank, 2)
        shared.step()
        mine = [shared.owner(parameter) == rank for parameter in parameters]
        keepers.append(mine)
        for index, is_mine in enumerate(mine):
            value = expected[index] if is_mine else start[index]
            assert torch.equal(parameters[index].data, value)
            assert bool(shared.state.get(parameters[index])) == is_mine
            assert torch.equal(parameters[index].grad, slopes[index])
    # By sizes 24 | 16 + 15 of the matrices, 7 | 4 + 3 of the rest.
    assert keepers[0] == [True, False, False, True, False, False]
    assert keepers[1] == [not mine for mine in keepers[0]]
