"""Which balancer a config chooses, and what does not go with it."""

import pytest

from experiments.assemble.checks import check_settings
from experiments.assemble.teaching import build_balance, build_objectives
from experiments.config.later import since_ever
from experiments.config.parsing import ConfigError
from experiments.config.presets import BuiltinPhases, presets_of
from experiments.config.tree import load_config, resolve_phases
from experiments.config.used_plugins import names_used, options_used
from plugins import PluginError, Registry
from student.balance import GradNorm, Relative
from student.config import LossConfig, TrainConfig

REGISTRY = Registry.load([BuiltinPhases()], entry_points=False)


def checked(*words):
    config = load_config(None, ["teachers=[p, q]", "phases=[dual]", *words])
    phases = resolve_phases(config, presets_of(REGISTRY))
    check_settings(config, phases, REGISTRY)
    return phases[0]


def built(phase, taught=True):
    terms = build_objectives(phase, REGISTRY, taught)
    return build_balance(phase, REGISTRY, terms), terms


def test_a_balancer_is_built_for_the_phases_terms_with_its_options():
    phase = checked("loss.balance={use: gradnorm, alpha: 0.5}")
    balance, terms = built(phase)
    assert isinstance(balance.balancer, GradNorm) and balance.reads_gradients
    assert balance.balancer.scores.shape == (len(terms),)
    assert ("balancer", "gradnorm") in names_used([phase])
    assert options_used([phase])["balancer", "gradnorm"] == [{"alpha": 0.5}]


def test_the_next_token_loss_is_known_by_its_kind():
    phase = checked(
        "loss.balance=relative",
        "loss.delta_ce=0",
        "loss.terms.text={use: ce, weight: 0.5}",
    )
    balance, terms = built(phase)
    assert isinstance(balance.balancer, Relative)
    assert list(terms)[balance._next_token] == "text"


def test_a_term_alone_and_none_have_no_balancer():
    assert built(checked())[0] is None
    phase = checked("loss.balance=pareto")
    assert built(phase, taught=False)[0] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["loss.balance={use: gradnorm, alfa: 1}"], r"balance\.alfa.*alpha"),
        (["loss.balance={use: gradnorm, alpha: -1}"], r"balance\.alpha.* >= 0"),
        (
            ["loss.balance=relative", "loss.delta_ce=0"],
            r"balance is 'relative'.*next-token loss.*give loss\.delta_ce",
        ),
        (
            ["loss.balance=conflict", "train.zero_stage=3"],
            r"balance is 'conflict'.*zero_stage=3.*set train\.zero_stage=2",
        ),
        (
            ["loss.balance=gradnorm", "train.fp16=true"],
            r"balance is 'gradnorm'.*train\.fp16.*set train\.bf16=true",
        ),
        (
            [
                "loss.terms.deep={use: deep_supervision, weight: 0.3}",
                "train.zero_stage=3",
            ],
            r"terms\.deep: deep_supervision.*head.*zero_stage=3.*zero_stage=2",
        ),
        (["loss.terms.balance={use: ce}"], r"loss\.terms\.balance.*other losses"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place_and_the_way_out(words, said):
    with pytest.raises(ConfigError, match=said):
        checked(*words)


def test_what_looks_at_no_gradients_goes_with_every_stage():
    checked("loss.balance=uncertainty", "train.zero_stage=3")


def test_an_unknown_balancer_is_refused_with_the_nearest():
    with pytest.raises(PluginError, match="did you mean 'gradnorm'"):
        checked("loss.balance=gradnrom")


def test_records_of_runs_without_a_balancer_are_as_they_were():
    assert "balance" not in since_ever(LossConfig())
    assert "balance_learning_rate" not in since_ever(TrainConfig())
