"""Muon for the student's matrices, beside AdamW for the rest."""

from dataclasses import replace

import torch

from align.support.matrices import hidden_matrices
from student.config import TrainConfig
from student.loop.engine import parameter_groups
from student.loop.muon import MATRICES, MuonAdamW

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
