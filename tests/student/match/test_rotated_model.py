"""Two real models that say the same, one with its features turned inside."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from student.match import Match
from student.objective import HIDDEN, RELATIONS
from student.step.context import introduce
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher

TURNED = "turned"
TURNS = [
    {"distance": "cka"},
    {"distance": "gram"},
    {"distance": "mse", "projector": "orthogonal"},
]


def rotation(width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, width, generator=generator))[0]


@torch.no_grad()
def make_uneven(model):
    """Channels of unlike spread, and norms that treat all channels alike."""
    generator = torch.Generator().manual_seed(0)
    table = model.get_input_embeddings().weight
    table.mul_(torch.randn(table.shape[1], generator=generator).exp())
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.fill_(1.0)
        if "v_proj" in name:
            weight.mul_(torch.randn(len(weight), 1, generator=generator).exp())


@torch.no_grad()
def turn(model):
    """Rotate the residual stream, and each head's values, and what reads them."""
    config, stream = model.config, rotation(model.config.hidden_size, 1)
    size, heads = config.head_dim, config.num_key_value_heads
    model.get_input_embeddings().weight.copy_(
        model.get_input_embeddings().weight @ stream
    )  # the output's, too
    for number, layer in enumerate(model.model.layers):
        inside, mlp = layer.self_attn, layer.mlp
        for reads in (inside.q_proj, inside.k_proj, inside.v_proj):
            reads.weight.copy_(reads.weight @ stream)
        for reads in (mlp.gate_proj, mlp.up_proj):
            reads.weight.copy_(reads.weight @ stream)
        for writes in (inside.o_proj, mlp.down_proj):
            writes.weight.copy_(stream.T @ writes.weight)
        every = torch.block_diag(
            *(rotation(size, 9 * number + h) for h in range(heads))
        )
        inside.v_proj.weight.copy_(every.T @ inside.v_proj.weight)
        groups = config.num_attention_heads // heads
        blocks = every.unflatten(0, (heads, size)).unflatten(2, (heads, size))
        own = [blocks[h, :, h] for h in range(heads) for _ in range(groups)]
        inside.o_proj.weight.copy_(inside.o_proj.weight @ torch.block_diag(*own))


@pytest.fixture
def sample(compared_at, school):
    """Contexts of a student and of itself turned round, with a maker of terms."""
    model = school.student()
    make_uneven(model)
    again = deepcopy(model)
    turn(again)
    loaded = replace(school.loaded, model=again)
    school.live[TURNED] = LiveTeacher(TURNED, loaded, KVCapture(again))
    try:
        need = {HIDDEN, RELATIONS}
        asked = {"states": frozenset({HIDDEN})}
        lesson = compared_at(need, taught=(TURNED,), model=model, **asked)
    finally:
        del school.live[TURNED]
    texts = [s.text for s in school.samples[-16:]]  # on which keys were calibrated
    contexts = []
    for batch in (school.encode(texts[i : i + 8]) for i in (0, 8)):
        rows = torch.zeros(len(batch.ids), 1, dtype=torch.int64)
        contexts.append(
            lesson.distiller.context(batch, lesson.panel(batch, rows), rows)
        )
    with torch.no_grad():
        logits = [m(batch.ids, batch.mask.long()).logits for m in (model, again)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)

    def cost(**options):
        term = Match(**options)
        sizes = {t.name: t.sizes for t in lesson.panel.teachers}
        introduce({"m": term}, lesson.capture.sizes, sizes)
        term.fit(contexts)
        return float(term(contexts[0]).detach())

    return cost


def test_a_model_turned_inside_costs_nothing_where_rotations_are_ignored(sample):
    for site in ("hidden", "values"):
        for options in TURNS:
            exact = sample(site=site, **options)
            by_channel = sample(site=site, scale="channel", **options)
            assert exact < 1e-4 < 0.003 < by_channel, (site, options, exact, by_channel)
        assert sample(site=site, distance="mse") > 0.1
        assert sample(site=site, distance="mse", scale="layer") > 0.1
