"""Terms by names of the user's choosing, with options, as a config says them."""

import pytest
import torch

from align.errors import InputError
from align.sizes import Sizes
from align.support.field_types import in_words
from experiments.assemble.checks import check_settings, timetable_of
from experiments.assemble.needs import check_needs, wanted_parts
from experiments.assemble.teaching import build_objectives, check_phase
from experiments.config.later import since_ever
from experiments.config.parsing import ConfigError
from experiments.config.presets import BuiltinPhases, presets_of
from experiments.config.schedules import moving_numbers, schedules_of
from experiments.config.tree import load_config, resolve_phases
from experiments.config.used_plugins import names_used, options_used
from experiments.making.transforms import build_transforms, transformer_of
from plugins import PluginError, Registry, hookimpl
from student.config import LossConfig
from student.match.distance import SmoothL1
from student.transforms import FakeQuant


class Slack(torch.nn.Module):
    """An option and a parameter."""

    needs = frozenset()

    def __init__(self, *, slack: float = 0.0, power: int = 1) -> None:
        super().__init__()
        if slack < 0:
            raise ValueError("slack must be >= 0")
        self.slack, self.power = slack, power
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, ctx):
        return self.scale * ctx.zero()


class Offer:
    @hookimpl
    def objectives(self):
        return {"slack": Slack}


REGISTRY = Registry.load([BuiltinPhases(), Offer()], entry_points=False)


def phases(*words):
    config = load_config(None, ["teachers=[p, q]", "phases=[dual]", *words])
    return config, resolve_phases(config, presets_of(REGISTRY))


def checked(*words):
    config, resolved = phases(*words)
    check_settings(config, resolved, REGISTRY)
    return resolved[0]


def test_one_kind_is_used_under_two_names_with_different_options():
    phase = checked(
        "loss.terms.near={use: slack, weight: 0.3}",
        "phase.dual.loss.terms.far.use=slack",
        "phase.dual.loss.terms.far.slack=2",
    )
    terms = build_objectives(phase, REGISTRY, taught=True)
    near, far = terms["near"], terms["far"]
    assert (near.weight, far.weight) == (0.3, 1.0)
    assert (near.objective.slack, far.objective.slack) == (0.0, 2)
    assert near.objective.scale is not far.objective.scale
    assert names_used([phase]).count(("objective", "slack")) == 1
    assert options_used([phase])["objective", "slack"] == [{}, {"slack": 2}]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("foo: 1", r"phase\.dual\.loss\.terms\.hidden\.foo.*power, slack, use, weight"),
        ("slak: 1", r"terms\.hidden\.slak.*did you mean.*slack"),
        ("slack: wide", r"phase\.dual\.loss\.terms\.hidden\.slack is 'wide'"),
        ("slack: -1", r"phase\.dual\.loss\.terms\.hidden: .*slack must be >= 0"),
        ("weight: -1", r"loss\.terms\.hidden\.weight is -1; give a number >= 0"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place_and_what_is_valid(entry, said):
    with pytest.raises(ConfigError, match=said):
        checked(f"loss.terms.hidden={{use: slack, {entry}}}")


def test_without_teachers_the_next_token_is_left_under_the_name_it_has():
    phase = checked("loss.delta_ce=0", "loss.terms.text={use: ce, weight: 0.5}")
    terms = build_objectives(phase, REGISTRY, taught=False)
    assert {name: term.weight for name, term in terms.items()} == {"text": 0.5}
    none = checked("loss.delta_ce=0")
    terms = build_objectives(none, REGISTRY, taught=False)
    assert {name: term.weight for name, term in terms.items()} == {"ce": 1.0}


def test_terms_that_ask_no_teacher_stay_without_teachers_and_ask_none_of_any():
    chosen = "{activations: {weight: 0.1, state: residual}, deep_supervision: {}}"
    phase = checked(f"loss.terms={chosen}", "loss.lambda_k=1")
    terms = build_objectives(phase, REGISTRY, taught=False)
    assert list(terms) == ["ce", "activations", "deep_supervision"]
    assert wanted_parts(phase, REGISTRY)["states"] == frozenset()
    phase = checked("loss.terms.activations={layers: [7]}")
    student = Sizes(layers=2, heads=1, k_dim=8, v_dim=8, hidden_size=8)
    with pytest.raises(InputError, match=r"loss\.terms\.activations: layers asks for"):
        check_phase(phase, REGISTRY, student, {}, None)


def test_records_of_runs_without_named_terms_are_as_they_were():
    assert "terms" not in since_ever(LossConfig())
    assert "terms" in since_ever(LossConfig(terms={"kv_k": {}}))


def test_built_in_terms_take_options_checked_as_a_strangers():
    phase = checked(
        "output.kd=1",
        "loss.terms.kd_hot={use: kd, temperature: 4, temperature_rule: linear}",
    )
    terms = build_objectives(phase, REGISTRY, taught=True)
    assert dict(terms["kd"].objective.given) == {}
    hot = {"temperature": 4, "temperature_rule": "linear"}
    assert dict(terms["kd_hot"].objective.given) == hot
    assert ("schedule", "linear") in names_used([phase])


def test_what_a_term_names_is_looked_up_as_all_names_are():
    chosen = "{use: smooth_l1, beta: 0.5}"
    phase = checked(f"loss.terms.far={{use: match, distance: {chosen}}}")
    assert ("distance", "smooth_l1") in names_used([phase])
    assert options_used([phase])["distance", "smooth_l1"] == [{"beta": 0.5}]
    far = build_objectives(phase, REGISTRY, taught=True)["far"].objective
    assert far.distance == SmoothL1(beta=0.5)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("distance: cks", "no distance is called 'cks'.*did you mean 'cka'"),
        ("distance: 3", r"terms\.far\.distance is 3; give the name of a distance"),
        (
            "distance: {use: mmd, bandwith: 1}",
            r"terms\.far\.distance\.bandwith.*bandwidth",
        ),
        ("distance: {use: mmd, bandwidth: 0}", r"far\.distance\.bandwidth is 0"),
        ("distance: {beta: 1}", r"distance is {'beta': 1}; give a registered"),
        (
            "distance: {use: smooth_l1, beta: {from: 0, to: 1}}",
            r"far\.distance\.beta\.from is 0",
        ),
        (
            "distance: {use: contrastive, perturb: dropout, "
            "strength: {from: 0.5, to: 1}}",
            r"terms\.far: strength is .*below 1",
        ),
        ("projector: [mlp]", r"far\.projector is \['mlp'\]; give the name of a pro"),
        ("site: middle", r"terms\.far\.site is 'middle'"),
        ("layers: some", r"terms\.far: layers is 'some'"),
    ],
)
def test_a_wrong_distance_or_projector_is_refused_with_its_place(entry, said):
    with pytest.raises((ConfigError, PluginError), match=said):
        checked(f"loss.terms.far={{use: match, {entry}}}")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("temprature: 4", r"phase\.dual\.loss\.terms\.hot\.temprature.*temperature"),
        ("temperature: 0", r"loss\.terms\.hot\.temperature is 0.*number > 0"),
        ("ot_alpha: 1", r"loss\.terms\.hot\.ot_alpha"),
        ("top_k: 3, threshold: 0.5", r"loss\.terms\.hot: .*both limit the named"),
        ("temperature_rule: wobble", "no schedule is called 'wobble'"),
    ],
)
def test_a_wrong_option_of_a_built_in_term_is_refused(entry, said):
    with pytest.raises((ConfigError, PluginError), match=said):
        checked(f"loss.terms.hot={{use: kd, {entry}}}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["loss.terms.x={use: match, teachers: []}"],
            r"loss\.terms\.x\.teachers is \[\], so the term would compare nothing; "
            "name some of p, q",
        ),
        (
            [
                "loss.terms.x={use: match, site: hidden, projector: linear, distance: "
                "{use: contrastive, negatives: batch}}",
                "train.batch_size=1",
            ],
            r"dual\.loss\.terms\.x compares a text with the others of its pass, but "
            r"train\.batch_size is 1; set 2 or more",
        ),
    ],
)
def test_a_term_that_has_nothing_to_compare_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        phase = checked(*words)
        check_needs(phase, REGISTRY, {"p": None, "q": None})


def test_an_option_of_a_distance_may_be_a_schedule_and_is_known_as_one():
    phase = checked(
        "loss.terms.far={use: match, site: values, projector: linear, "
        "distance: {use: smooth_l1, beta: {from: 2, to: 0.5, rule: cosine}}}"
    )
    assert schedules_of(phase)["loss.terms.far.distance.beta"].rule == "cosine"
    far = build_objectives(phase, REGISTRY, taught=True)["far"].objective
    assert far.distance.beta["to"] == 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["loss.lambda_v={from: 1, to: 0, rule: entropy}"],
            r"loss\.lambda_v moves by the rule entropy, which goes by what teachers "
            r"predict.*give output\.projected_kl or another term",
        ),
        (
            ["output.kd=1", "loss.lambda_v={from: 1, to: 0, rule: balanced}"],
            r"loss\.lambda_v: the rule balanced: no outputs are known here; this rule "
            r"moves a temperature of next-token outputs alone.*loss, entropy, spread",
        ),
        (
            ["output.kd=1", "train.learning_rate={from: 1, to: 2, rule: capacity}"],
            r"train\.learning_rate: the rule capacity: no two models' sizes are known",
        ),
        (
            [
                "output.kd=1",
                "loss.terms.x={use: match, site: values, projector: linear, distance: "
                "{use: contrastive, temperature: {from: 1, to: 2, rule: vocabulary}}}",
            ],
            r"distance\.temperature: the rule vocabulary: no vocabulary is known here",
        ),
    ],
)
def test_a_rule_that_cannot_move_a_number_is_refused_and_says_what_it_moves(
    words, said
):
    with pytest.raises((ConfigError, InputError), match=said):
        checked(*words)


@pytest.mark.parametrize("rule", ["entropy", "spread", "gap"])
def test_what_teachers_predict_moves_any_number_where_a_term_reads_it(rule):
    setting = f"{{from: 1, to: 2, rule: {rule}}}"
    phase = checked("output.projected_kl=1", f"loss.lambda_v={setting}")
    (signal,) = timetable_of(phase, REGISTRY, 5).signals
    assert signal in ("teacher_entropy", "logit_spread", "loss_gap")
    heated = checked("output.projected_kl=1", f"output.temperature={setting}")
    assert not timetable_of(heated, REGISTRY, 5).signals


def test_every_setting_that_moves_has_its_own_range_whoever_gives_the_numbers():
    def moving(last):
        return f"{{from: 0.1, to: {last}}}"

    near = f"{{use: match, distance: {{use: contrastive, temperature: {moving(1)}}}}}"
    phase = checked(
        f"loss.smoothing={moving(0.5)}",
        f"loss.temperatures=[{moving(2)}]",
        f"loss.terms.near={near}",
        f"train.weight_decay={moving(0)}",
        f"student.transform={{fake_quant: {{strength: {moving(1)}}}}}",
    )
    numbers = moving_numbers(phase, REGISTRY)
    assert {place: in_words(number) for place, number in numbers.items()} == {
        "loss.smoothing": "a number in [0, 1)",
        "loss.temperatures[0]": "a number > 0",
        "loss.terms.near.distance.temperature": "a number > 0",
        "train.weight_decay": "a number >= 0",
        "transform.fake_quant.strength": "a number in [0, 1]",
    }


@pytest.mark.parametrize("rule", ["loss", "entropy", "spread", "gap"])
def test_a_transform_s_strength_moves_by_any_rule_that_is_let_through(rule):
    setting = f"{{from: 0.5, to: 1, rule: {rule}}}"
    phase = checked(
        "output.projected_kl=1",
        f"student.transform={{fake_quant: {{bits: 4, group: 2, strength: {setting}}}}}",
    )
    timetable = timetable_of(phase, REGISTRY, 4)
    place, model = "transform.fake_quant.strength", torch.nn.Linear(4, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeQuant, "attach", lambda transform, model: None)
        patch.setattr(FakeQuant, "at", lambda transform, strength, step: None)
        transforms = build_transforms(phase, REGISTRY, model, timetable)
        assert timetable.taken() == {place: 0.5}
        assert transformer_of(phase, REGISTRY)(model) is not None
        if rule == "loss":  # a run's own record, once there is one
            timetable.kept = lambda term, step: 0.75
            transforms.at(1)
            assert timetable.taken() == {place: 0.75}


def test_a_phase_without_any_term_is_refused():
    weights = ("lambda_k", "lambda_v", "beta_cos", "gamma_kl", "delta_ce")
    silent = checked(*(f"loss.{name}=0" for name in weights))
    with pytest.raises(ConfigError, match=r"learns nothing: .* such as loss.delta_ce"):
        check_phase(silent, REGISTRY, None, {"a": None}, None)
