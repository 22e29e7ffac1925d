"""Terms that the bench alone uses."""

from dataclasses import replace

import pytest
import torch
import yaml

from align.errors import InputError
from experiments.bench.quality.bed import config_for
from experiments.bench.quality.peers import trl_losses
from experiments.bench.quality.peers.arms import heard_arms
from experiments.bench.quality.peers.terms import KdWhere, TrlGkd, TrlGold
from experiments.bench.quality.train import Setup, config_of
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import resolve_phases
from plugins.contracts import check
from plugins.contracts.step import step_context
from student.terms.next_token import kd


@pytest.fixture
def one_teacher():
    """A step of a text of sums and one of verse, with a teacher that is sure of them
    alike everywhere."""
    ctx = step_context()[0]
    first = ctx.outputs.teachers[0]
    alike = replace(first, weight=ctx.batch.has_text.float())
    outputs = replace(ctx.outputs, teachers=[alike], domains=["sums", "verse"])
    return replace(ctx, outputs=outputs)


def test_at_home_and_abroad_add_up_to_everywhere(one_teacher):
    home = KdWhere(domains=["sums"])(one_teacher)
    abroad = KdWhere(domains=["sums"], elsewhere=True)(one_teacher)
    assert home > 0 and abroad > 0
    torch.testing.assert_close(home + abroad, kd(one_teacher))
    torch.testing.assert_close(KdWhere(domains=["code"])(one_teacher), 0 * home)
    torch.testing.assert_close(KdWhere()(one_teacher), kd(one_teacher))


def test_who_is_heard_somewhere_alone_resolves_and_says_where(tmp_path):
    domains = ("sums", "verse")
    base = tmp_path / "config.yaml"
    base.write_text(yaml.safe_dump(config_for(tmp_path, domains, domains, "disjoint")))
    arms = heard_arms(domains)
    assert len({arm.name for arm in arms}) == 4
    for arm in arms:
        assert not arm.stored
        config = config_of(Setup(base, tmp_path, 8), arm, 0)
        (phase,) = resolve_phases(config, presets_of(load_registry(config)))
        (term,) = phase.loss.terms.values()
        assert term["domains"] == list(arm.teachers)
        assert term["elsewhere"] == arm.name.endswith("abroad")


def test_without_trl_its_losses_say_what_to_install(monkeypatch, one_teacher):
    monkeypatch.setitem(__import__("sys").modules, "trl", None)
    monkeypatch.setattr(trl_losses, "trl", trl_losses.trl.__wrapped__)
    with pytest.raises(InputError, match="pip install trl"):
        TrlGkd()(one_teacher)


@pytest.mark.slow
def test_trl_s_losses_are_forward_divergence_and_distance_of_sorted_chances(
    one_teacher,
):
    pytest.importorskip("trl", reason="trl is an optional extra")
    forward = TrlGkd(beta=0)(one_teacher)
    torch.testing.assert_close(forward, kd(one_teacher))
    outputs = one_teacher.outputs
    student, teacher = outputs.student, outputs.teachers[0].output
    rows = [
        (student.hidden @ student.matrix.weight.T).softmax(-1),
        (teacher.hidden @ teacher.matrix.weight.T).softmax(-1),
    ]
    apart = (rows[0].sort(-1).values - rows[1].sort(-1).values).abs().sum(-1)
    held = student.tokens.has_text
    texts = (apart * held).sum(1) / held.sum(1)  # one tokenizer: no stretch is longer
    torch.testing.assert_close(TrlGold()(one_teacher), texts.mean())
    before = torch.nn.functional.pad(apart[:, :-1], (1, 0))
    texts = (before * held).sum(1) / held.sum(1)
    torch.testing.assert_close(TrlGold(merge="bayesian")(one_teacher), texts.mean())
    for factory in (TrlGkd, TrlGold):
        assert not [p.name for p in check("objective", factory) if not p.ok]
