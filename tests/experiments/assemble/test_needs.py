"""What a phase asks of its teachers, and what is said where one cannot give it."""

from types import SimpleNamespace

import pytest

from align.views import ATTENTION, HIDDEN, KEYS_VALUES, OUTPUTS, OWN_LOSS
from experiments.assemble.needs import (
    check_needs,
    idle_settings,
    left_out,
    wants_kv,
    with_depth,
)
from experiments.assemble.outputs import signals_wanted
from experiments.config.parsing import ConfigError
from plugins.registry import Registry
from teacher.capture.pair_capture import LACKED_BESIDE_PAIRS
from tests.experiments.assemble.test_outputs import phase

REGISTRY = Registry.load(entry_points=False)
LEARNT = {"fusion_method": "learnable"}
SILENT = {"lambda_k": 0, "lambda_v": 0, "beta_cos": 0, "gamma_kl": 0}
LIVE = SimpleNamespace(lacks={})
STORED = SimpleNamespace(lacks={ATTENTION: "no queries", OUTPUTS: "no outputs"})
SPEAKER = SimpleNamespace(
    lacks={KEYS_VALUES: "it only speaks", ATTENTION: "it only speaks"}
)


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        ({"loss": {}}, True),
        ({"loss": SILENT | {"relation_v": 0.1}}, True),
        ({"loss": SILENT | {"gamma_kl": 0.1}}, False),
        ({"loss": SILENT, "output": {"kd": 1}}, False),
        ({"loss": SILENT, "fuse": LEARNT}, True),
        (
            {
                "loss": SILENT | {"eta_outcome": 0},
                "fuse": LEARNT,
            },
            False,
        ),
        (
            {
                "loss": SILENT | {"router_signal": "teacher_loss"},
                "fuse": LEARNT,
            },
            False,
        ),
    ],
)
def test_keys_and_values_are_asked_for_where_a_loss_meets_them(sections, wanted):
    """Fails where the outcome of fixed fusion, which teaches nobody, asks for any."""
    assert wants_kv(phase(**sections), REGISTRY) == wanted


def test_a_term_that_nobody_can_serve_is_refused_with_every_teacher_and_the_setting():
    asking = phase(loss=SILENT | {"gamma_kl": 0.1})
    said = (
        r"attention_kl compares attention, which teacher 'a' cannot give: no queries; "
        r"teacher 'b' cannot give: it only speaks; set loss.gamma_kl=0"
    )
    with pytest.raises(ConfigError, match=said):
        check_needs(asking, REGISTRY, {"a": STORED, "b": SPEAKER})
    check_needs(asking, REGISTRY, {"a": STORED, "b": LIVE})
    with pytest.raises(
        ConfigError, match=r"kv_k compares keys and values, which .*'b'"
    ):
        check_needs(phase(loss={}), REGISTRY, {"b": SPEAKER})


def test_who_reads_in_one_is_no_teacher_of_keys_beside_an_encoder_decoder():
    """Alone or beside a teacher that is one, too; its outputs may be learned."""
    in_one = SimpleNamespace(lacks=LACKED_BESIDE_PAIRS, predicts=True)
    both = {"t5": LIVE, "gpt": in_one}
    keys = phase(loss=SILENT | {"lambda_k": 1})
    said = r"teacher 'gpt' would teach nothing in phase '.*': kv_k compare what it"
    with pytest.raises(ConfigError, match=said):
        check_needs(keys, REGISTRY, both)
    spoken = phase(loss=SILENT | {"lambda_k": 1}, output={"kd": 1})
    check_needs(spoken, REGISTRY, both)
    (sentence,) = left_out(spoken, REGISTRY, both)
    assert "kv_k learns nothing from teacher 'gpt', only from t5" in sentence
    of_t5 = {"kd": 1, "teachers": {"kd": ["t5"]}}
    with pytest.raises(ConfigError, match="'gpt' would teach nothing"):
        check_needs(phase(loss=SILENT | {"lambda_k": 1}, output=of_t5), REGISTRY, both)
    named = {"m": {"use": "match", "site": "keys", "teachers": ["t5", "gpt"]}}
    with pytest.raises(ConfigError, match=r"'gpt' cannot.*in loss\.terms\.m\.teachers"):
        check_needs(
            phase(loss=SILENT | {"terms": named}, output={"kd": 1}), REGISTRY, both
        )


def test_hidden_states_are_asked_of_live_teachers_that_take_part():
    deep = {"use": "match", "site": "hidden", "teachers": ["a"]}
    asking = phase(loss=SILENT | {"terms": {"deep": deep}})
    stored = SimpleNamespace(lacks={HIDDEN: "no hidden states"})
    with pytest.raises(ConfigError, match=r"deep compares hidden, which teacher 'a' c"):
        check_needs(asking, REGISTRY, {"a": stored})
    with pytest.raises(ConfigError, match=r"terms\.deep\.teachers names 'a'.*takes b"):
        check_needs(asking, REGISTRY, {"b": LIVE})
    check_needs(asking, REGISTRY, {"a": LIVE})
    assert with_depth(asking, REGISTRY, {"a": LIVE, "b": stored}) == ["a"]
    assert not wants_kv(asking, REGISTRY)


def test_a_teacher_that_is_left_out_is_named_with_term_reason_and_who_is_left():
    teachers = {"a": STORED, "b": LIVE, "c": SPEAKER}
    sentences = list(left_out(phase(loss={"gamma_kl": 0.1}), REGISTRY, teachers))
    assert sentences == [
        f"phase 'dual': {term} learns nothing from teacher {name!r}, only from "
        f"{others}: {reason}"
        for term, name, others, reason in (
            ("kv_k", "c", "a, b", "it only speaks"),
            ("kv_v", "c", "a, b", "it only speaks"),
            ("cosine", "c", "a, b", "it only speaks"),
            ("attention_kl", "a", "b", "no queries"),
            ("attention_kl", "c", "b", "it only speaks"),
        )
    ]


def test_who_the_config_names_itself_is_not_told_of():
    teachers = {"twin": STORED, "foreign": LIVE}
    both = {"projected_kl": 1}
    (sentence,) = left_out(phase(loss=SILENT, output=both), REGISTRY, teachers)
    assert (
        "projected_kl learns nothing from teacher 'twin', only from foreign" in sentence
    )
    named = both | {"teachers": {"projected_kl": ["foreign"]}}
    assert not list(left_out(phase(loss=SILENT, output=named), REGISTRY, teachers))


def test_a_router_hears_the_losses_that_there_are():
    routed = phase(fuse=LEARNT)
    mute = SimpleNamespace(lacks={OWN_LOSS: "no losses"})
    sentences = list(left_out(routed, REGISTRY, {"a": mute, "b": LIVE}))
    assert any(
        "own loss of teacher 'a', only of the others': no" in s for s in sentences
    )
    with pytest.raises(ConfigError, match="own losses, which teacher 'a' cannot give"):
        check_needs(routed, REGISTRY, {"a": mute})


def test_only_who_brings_layers_is_mapped_onto_the_students():
    teachers = {"a": STORED, "b": LIVE, "c": SPEAKER}
    silent = phase(loss=SILENT, output={"kd": 1})
    watched = phase(loss=SILENT | {"gamma_kl": 0.1})
    assert with_depth(silent, REGISTRY, teachers) == []
    assert with_depth(watched, REGISTRY, teachers) == ["b"]
    assert with_depth(phase(loss={}), REGISTRY, teachers) == ["a", "b"]


def by(router, **options):
    return phase(fuse={"fusion_method": {"use": router, **options}})


def test_what_a_router_is_to_be_told_and_no_teacher_says_is_refused_by_name():
    quiet = SimpleNamespace(lacks={OUTPUTS: "no outputs"})
    said = r"'confidence' goes by entropy, which teacher 'a' cannot give: no outputs; c"
    with pytest.raises(ConfigError, match=said):
        check_needs(by("confidence"), REGISTRY, {"a": quiet})
    check_needs(by("confidence"), REGISTRY, {"a": quiet, "b": LIVE})
    sentences = list(left_out(by("confidence"), REGISTRY, {"a": quiet, "b": LIVE}))
    assert any("weighs teacher 'a' as the others on average" in s for s in sentences)
    assert signals_wanted(by("score", beta=0), REGISTRY) == {"entropy", "max_prob"}


def test_confidence_counts_once():
    twice = phase(fuse={"fusion_method": "confidence"}, output={"weighting": "entropy"})
    with pytest.raises(ConfigError, match=r"by entropy and output\.weighting=entropy"):
        check_needs(twice, REGISTRY, {"a": LIVE, "b": LIVE})


def test_selecting_by_entropy_is_no_weighing_of_teachers():
    """And who asks for what nobody gives is named."""
    select = SILENT | {"select": {"uncertain": {}}}
    check_needs(
        phase(loss=select, output={"kd": 1, "weighting": "entropy"}),
        REGISTRY,
        {"a": LIVE, "b": LIVE},
    )
    quiet = SimpleNamespace(lacks={OUTPUTS: "no outputs"})
    with pytest.raises(ConfigError, match=r"loss\.select asks for goes by entropy"):
        check_needs(phase(loss=select), REGISTRY, {"a": quiet})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fuse": {"fusion_method": "confidence", "temperature": 0.1}}, "temperature"),
        ({"fuse": {"routing_per_layer": True}}, "routing_per_layer"),
        ({"loss": {"select": {"uncertain": {"on": "outputs"}}}}, "select.uncertain"),
        (
            {
                "loss": SILENT | {"select": {"uncertain": {"on": "kv"}}},
                "output": {"kd": 1},
            },
            "select.uncertain",
        ),
        ({"loss": {"select": {"uncertain": {}}}}, None),
        ({"fuse": LEARNT | {"temperature": 0.1, "routing_per_layer": True}}, None),
    ],
)
def test_what_changes_nothing_of_routing_and_selecting_is_said(settings, said):
    idle = idle_settings(phase(**settings), {"a": LIVE, "b": LIVE}, REGISTRY)
    assert len(idle) == (said is not None)
    assert all(f"{said}" in sentence for sentence in idle)
