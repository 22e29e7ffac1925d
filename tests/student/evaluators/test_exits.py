"""Early exits: by hooks of the model's own, and beside a checkpoint."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from align.errors import InputError
from align.sizes import Sizes
from plugins.contracts.models.evaluator import small_context
from plugins.contracts.step import step_context
from student.evaluate import bits_and_chars, text_bits
from student.evaluators.exits import EXITS, Exits, read_exits, write_exits
from student.objective import NORMED, HiddenOutput
from student.own import DeepSupervision
from teacher.capture.kv_capture import KVCapture

LAYERS = 4
SIZES = Sizes(layers=2, heads=1, k_dim=8, v_dim=8, hidden_size=8)


def measured_in(folder, maps):
    """A context whose model, of four layers, lies in a folder with heads."""
    ctx = small_context(())
    config = copy.deepcopy(ctx.subject.model.config)
    config.num_hidden_layers, config.layer_types = LAYERS, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = type(ctx.subject.model)(config).eval()
    model.save_pretrained(folder)
    write_exits(maps, folder)
    reader = replace(ctx.subject, name="s", folder=folder, model=model)
    return replace(ctx, subject=replace(reader, capture=KVCapture(model)))


def turned(layers, width):
    """Maps near the identity."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(layers), width, width, generator=generator) / 8
    return {n: torch.eye(width) + each for n, each in zip(layers, noise, strict=True)}


def test_a_token_leaves_at_the_first_head_that_is_sure(tmp_path):
    width = small_context(()).subject.model.config.hidden_size
    maps = turned((0, 2), width)
    ctx = measured_in(tmp_path, maps)
    reader, noted = ctx.subject, {}
    batch = reader.encode([s.text for s in ctx.samples])
    for layer in maps:  # the norm that reads what the layer gives
        norm = reader.model.model.layers[layer + 1].input_layernorm
        norm.register_forward_hook(lambda m, i, made, n=layer: noted.update({n: made}))
    with torch.no_grad():
        whole = reader.model(batch.ids, attention_mask=batch.mask.long()).logits
    head = reader.model.lm_head.weight
    early = {n: F.linear(noted[n] @ maps[n], head) for n in maps}
    sure = {n: x.softmax(-1).amax(-1) for n, x in early.items()}
    threshold = float(torch.cat([x.flatten() for x in sure.values()]).median())
    logits, used = whole.clone(), torch.full(batch.ids.shape, float(LAYERS))
    for row, column in torch.ones_like(batch.ids).nonzero().tolist():
        for layer in (0, 2):
            if sure[layer][row, column] >= threshold:
                logits[row, column] = early[layer][row, column]
                used[row, column] = layer + 1
                break
    bits, chars = bits_and_chars(logits, batch)
    counted = batch.has_text[:, 1:]
    evaluate = Exits(
        thresholds=[0.0, threshold, 1.1], picture=str(tmp_path / "curve.png")
    )
    measured = evaluate(ctx).values
    part = f"at {threshold:g}"
    assert measured["exit_bits_per_char"][part] == pytest.approx(
        float(bits.sum() / chars.sum()), rel=1e-6
    )
    share = 100 * float(used[:, :-1][counted].mean()) / LAYERS
    assert 25 < share < 100
    assert measured["exit_layers"][part] == pytest.approx(share)
    assert measured["exit_layers"]["at 0"] == 25
    assert measured["exit_layers"]["never"] == 100
    each = text_bits(reader.capture, reader.encode, ctx.samples)
    usual = sum(b for b, _ in each) / sum(c for _, c in each)
    assert measured["exit_bits_per_char"]["never"] == pytest.approx(usual, rel=1e-5)
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_heads_lie_beside_a_checkpoint_that_transformers_loads(tmp_path):
    reader = measured_in(tmp_path, {1: torch.full((32, 32), 0.5)}).subject
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(6)[None]
    assert torch.equal(again(ids).logits, reader.model(ids).logits)
    assert torch.equal(read_exits(tmp_path)[1], torch.full((32, 32), 0.5))
    write_exits({}, tmp_path / "none")  # writes nothing, so that no folder is needed


def test_of_a_model_without_heads_it_is_said_and_of_another_models_refused(tmp_path):
    ctx = measured_in(tmp_path, {})
    measured = Exits()(ctx)
    assert measured.values == {} and "deep_supervision" in measured.notes[0]
    write_exits({9: torch.eye(32)}, tmp_path)
    with pytest.raises(InputError, match=rf"{EXITS} of s has a head at layer 9"):
        Exits()(ctx)
    with pytest.raises(InputError, match="thresholds is empty"):
        Exits(thresholds=[])


def test_heads_that_no_file_holds_yet_are_those_of_the_subject(tmp_path):
    width = small_context(()).subject.model.config.hidden_size
    maps = turned((0, 2), width)
    ctx = measured_in(tmp_path, maps)
    one = Exits(thresholds=[0.5])
    subject = replace(ctx.subject, folder=None, exits=dict(reversed(maps.items())))
    assert one(replace(ctx, subject=subject)) == one(ctx)


def test_heads_are_those_of_layers_that_were_trained():
    ctx = step_context()[0]
    output = HiddenOutput(ctx.own[NORMED][1], ctx.outputs.student.matrix)
    ctx = replace(ctx, output=output)
    for layers, heads in (
        ("all", [0]),
        ("last:1", []),
        ("first:1", [0]),
        ([-2, -1], [0]),
    ):
        term = DeepSupervision(layers=layers)
        assert term.exits == {}
        term.meet(SIZES, {})
        assert term.exits == {}
        term(ctx)
        assert list(term.exits) == heads
        again = DeepSupervision(layers=layers)
        again.meet(SIZES, {})
        kept = term.state_dict()
        again.load_state_dict(kept)
        assert list(again.exits) == heads
        del kept["trained"]  # as earlier versions wrote it
        again.load_state_dict(kept)
        assert list(again.exits) == heads
