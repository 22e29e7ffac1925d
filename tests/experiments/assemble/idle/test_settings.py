"""Whoever gives a setting that changes nothing is told so before any work."""

import pytest

from experiments.assemble.idle import settings
from experiments.assemble.idle.settings import idle_settings_given
from experiments.config.packaged import recipes
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import load_config, resolve_phases

TEACHERS = {"a": "zoo:gpt2-prose", "b": "zoo:qwen-code", "c": "zoo:neox-mixed"}
BASE = {"teachers": TEACHERS, "phases": ["multi_basic"]}
REGISTRY = load_registry(load_config(BASE))


def idle(*words, source=BASE):
    config = load_config(source, words)
    presets = presets_of(REGISTRY)
    phases = resolve_phases(config, presets)
    return idle_settings_given(config, phases, presets, REGISTRY)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("output.temperature=4", "no such term is on"),
        ("output.surprise=1", "it is of output.kd, and"),
        ("output.teachers.kd=[a]", "output.kd is 0"),
        ("fuse.router_type=gate", "it is of fuse.fusion_method=learnable"),
        ("fuse.num_clusters=9", "it is of fuse.fusion_method=similarity"),
        ("fuse.z_dim=7", "it is of fuse.space=z, and the space is 'losses'"),
        ("fuse.routing_level=sample", "the router is 'fixed' and fuse.choice soft"),
        ("eval.pairs=[asked.jsonl]", "eval.use has no generation"),
        ("fuse.entropy_target=diverse", "the router 'fixed' learns nothing"),
        ("align.adapter=pca", "only the outcome adapts"),
        ("loss.outcome_layers=lower", "loss.outcome_every is 0"),
        ("loss.domain_signal=loss", "loss.domain_balance is 0"),
        ("loss.fade_to=0.5", "loss.fade_steps is 0"),
        ("train.matrix_learning_rate=0.5", "it is of train.optimizer=muon"),
        ("train.balance_learning_rate=0.5", "loss.balance is none"),
        ("train.early_stop.patience=1", "train.early_stop.metric is null"),
        ("student.lora.alpha=3", "student.lora.rank is 0"),
        ("data.written.share=0.9", "data.written.by is null"),
        ("store.encoding=int8", "store.read is false"),
        ("phase.routing.train.steps=5", "the run has the phases multi_basic"),
        ("phase.multi_basic.output.top_k=5", "no such term is on"),
    ],
)
def test_a_setting_with_nothing_to_act_on_is_said_to_change_nothing(word, why):
    (sentence,) = idle(word)
    name = word.partition("=")[0].removeprefix("phase.multi_basic.")
    assert "changes nothing" in sentence and why in sentence
    assert sentence.startswith(name.removesuffix(".steps"))


def test_a_weight_that_gives_way_to_the_term_itself_is_said_to():
    (sentence,) = idle("loss.lambda_k=2", "loss.terms.kv_k.weight=3")
    assert sentence == "loss.lambda_k changes nothing: loss.terms.kv_k says the weight"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["output.projected_kl=1", "output.temperature=4", "output.top_k=8"],
        ["output.projected_kl=1", "output.divergence=skew_forward", "output.mix=0.1"],
        ["phase.all.fuse.fusion_method=learnable", "fuse.router_type=gate"],
        ["phase.all.fuse.fusion_method=similarity", "fuse.similarity=dot"],
        ["fuse.choice=sampled", "fuse.routing_level=sample"],
        ["eval.use=[{use: generation}]", "eval.pairs=[asked.jsonl]"],
        ["eval.use=[a_plugin_s]", "eval.pairs=[asked.jsonl]"],  # which may ask them
        ["phase.all.fuse.space=z", "fuse.z_dim=7", "train.z_learning_rate=0.1"],
        ["phase.all.fuse.space=student", "align.adapter=pca"],
        ["phase.all.loss.outcome_every=2", "align.adapter=pca", "loss.eta_outcome=2"],
        ["train.optimizer=muon", "train.matrix_learning_rate=0.5"],
        ["loss.balance=uncertainty", "train.balance_learning_rate=0.5"],
        ["loss.fade_steps=5", "loss.fade_to=0.5"],
        ["loss.domain_balance=1", "loss.domain_signal=loss"],
        ["phase.all.loss.outcome_every=2", "loss.outcome_layers=lower"],
        ["train.early_stop.metric=bits_per_char", "train.early_stop.patience=1"],
        ["train.engine=deepspeed", "train.zero_stage=0"],
        ["student.lora.rank=4", "student.lora.alpha=3"],
        ["store.read=true", "store.encoding=int8"],
        ["teachers.a.weight=3"],
    ],
)
def test_a_setting_that_acts_is_not_named(words):
    assert idle(*words) == []


def test_a_stage_of_zero_is_nobody_s_without_deepspeed():
    (sentence,) = idle("train.engine=torch", "train.zero_stage=0")
    assert "train.zero_stage changes nothing: ZeRO is DeepSpeed's" in sentence


def test_one_of_two_settings_that_say_the_same_is_named():
    (steps,) = idle("train.steps=9", "train.num_epochs=2")
    assert "train.num_epochs changes nothing: train.steps=9" in steps
    (weight,) = idle("fuse.weights=[1,2,3]", "teachers.a.weight=3")
    assert "teachers.a.weight changes nothing: fuse.weights says" in weight
    (mix,) = idle("output.projected_kl=1", "output.mix=0.1")
    assert "output.mix changes nothing: output.divergence is 'forward'" in mix


def test_a_setting_that_acts_in_one_of_two_phases_is_not_named():
    words = ["phases=[multi_basic, routing]", "fuse.router_type=gate"]
    assert idle(*words) == []
    (only,) = idle(*words[:1], "phase.multi_basic.fuse.router_type=gate")
    assert only.startswith("fuse.router_type changes nothing in multi_basic: ")


def test_a_warm_up_as_long_as_its_phase_is_told():
    (sentence,) = idle("train.steps=4", "train.warmup_steps=100")
    assert "train.warmup_steps=100 is no shorter than its 4 steps" in sentence
    assert idle("train.steps=4", "train.warmup_steps=3") == []


def test_domains_are_not_weighed_against_each_other_where_there_is_one(tmp_path):
    (tmp_path / "news.txt").write_text("one text\n")
    words = ["data.mix_temperature=3", "loss.domain_balance=1"]
    assert idle(*words) == []  # the embedded texts are of two
    mix, balance = idle(*words, f"data.train=[{tmp_path}/news.txt]")
    assert "data.mix_temperature changes nothing: all text" in mix
    assert "loss.domain_balance changes nothing: all text" in balance


def test_what_a_preset_sets_is_not_held_against_who_changed_its_router():
    words = ["phases=[routing]", "phase.all.fuse.fusion_method=fixed"]
    assert not any("entropy" in sentence for sentence in idle(*words))


@pytest.mark.parametrize("name", ["quickstart", "quickstart_tiny", "real", *recipes()])
def test_packaged_configs_give_nothing_in_vain(name, monkeypatch):
    monkeypatch.setattr(settings, "domains_of", lambda data: ["prose", "code"])
    assert idle(source=name) == []  # whose texts are yours, not there
