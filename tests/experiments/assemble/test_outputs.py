import json
from types import SimpleNamespace

import pytest

from align.errors import MtkdError
from experiments.assemble.needs import idle_settings
from experiments.assemble.outputs import check_outputs, teachers_of
from experiments.cli import main
from experiments.config.parsing import ConfigError
from experiments.config.presets import BuiltinPhases
from experiments.config.tree import load_config, resolve_phase
from plugins.hookspecs import hookimpl
from plugins.registry import Registry
from student.output import token_bytes
from student.output.across import vocabulary
from teacher.live_teacher import LiveTeacher
from tests.experiments.small_runs import small_config


class Speaks:
    """A tokenizer, as far as its vocabulary goes."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}


def teacher(*tokens: str, kind: str = "decoder", causal: bool = True, head=True):
    loaded = SimpleNamespace(kind=kind, tokenizer=Speaks(*tokens))
    capture = SimpleNamespace(causal=causal, predicts=causal and head, start=None)
    return LiveTeacher("any", loaded, capture)


TEACHERS = {
    "twin": teacher("a", "b"),
    "foreign": teacher("b", "a"),
    "bert": teacher("a", "b", kind="encoder", causal=False),
    "t5": teacher("a", "b", kind="encoder-decoder", causal=False),
}


REGISTRY = Registry.load(entry_points=False)


def phase(**sections):
    names = {name: {"model": name} for name in TEACHERS}
    config = load_config({"teachers": names, "phases": ["dual"], **sections})
    return resolve_phase(config, "dual", {"dual": {}})


@pytest.mark.parametrize(
    ("output", "names", "said"),
    [
        ({"kd": 1}, "twin foreign", r"of foreign are not.*output.teachers.kd=\[twin\]"),
        (
            {"kd": 1},
            "foreign",
            r"learn from the others by output.projected_kl=1, which",
        ),
        ({"sequence_ot": 1}, "foreign", "none has the student's: set output.seq"),
        ({"likelihood": 1}, "bert t5", "bert: it is bidirectional.*t5: its decoder"),
        (
            {"projected_kl": 1},
            "twin",
            "output.projected_kl compares the bytes.*the student: tokenizer Speaks is",
        ),
        (
            {"hybrid_ot": 1},
            "twin foreign",
            "output.hybrid_ot compares the bytes.*likelihood_ends=tokens",
        ),
        (
            {"kd": 1, "teachers": {"kd": ["bert"]}},
            "twin bert",
            "names 'bert', which gives no next-token output: it is bidirectional",
        ),
        (
            {"kd": 1, "teachers": {"kd": ["foreign"]}},
            "twin",
            "names 'foreign', which the phase does not take; it takes twin",
        ),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused_before_any_work(
    output, names, said
):
    chosen = {name: TEACHERS[name] for name in names.split()}
    with pytest.raises(ConfigError, match=said):
        check_outputs(phase(output=output), REGISTRY, chosen, Speaks("a", "b"))


def test_a_term_of_its_own_name_has_its_own_teachers_and_is_named_in_errors():
    terms = {"hot": {"use": "kd", "temperature": 4, "teachers": ["twin"]}}
    named = phase(loss={"terms": terms}, output={"likelihood": 1})
    assert teachers_of(named, "hot", TEACHERS) == ["twin"]
    assert teachers_of(named, "likelihood", TEACHERS) == ["twin", "foreign"]
    logits = {"use": "match", "site": "logits", "distance": "mse"}
    twin = phase(loss={"terms": {"hot": {**logits, "teachers": ["twin"]}}})
    assert teachers_of(twin, "hot", TEACHERS) == ["twin"]
    every = phase(loss={"terms": {"hot": logits}})
    with pytest.raises(ConfigError, match=r"hot compares .*hot\.teachers=\[twin\]"):
        check_outputs(every, REGISTRY, TEACHERS, Speaks("a", "b"))
    wrong = phase(loss={"terms": {"hot": {"use": "kd"}}})
    said = r"loss\.terms\.hot compares .* set loss\.terms\.hot\.teachers=\[twin\]"
    with pytest.raises(ConfigError, match=said):
        check_outputs(wrong, REGISTRY, TEACHERS, Speaks("a", "b"))


@pytest.mark.parametrize("term", ["kd", "likelihood", "projected_kl", "hybrid_ot"])
def test_a_split_head_is_refused_whoever_gives_outputs(term):
    train = {"engine": "deepspeed", "zero_stage": 3}
    split = phase(output={term: 1}, train=train)
    with pytest.raises(ConfigError, match=rf"output\.{term}.*train\.zero_stage=2"):
        check_outputs(split, REGISTRY, TEACHERS, Speaks("a"))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"kd": 1}, []),
        ({"combine": "distributions"}, ["only output.kd"]),
        ({"kd": 1, "combine": "distributions"}, ["under forward KL"]),
        (
            {"kd": 1, "combine": "distributions", "teachers": {"kd": ["twin"]}},
            ["only output.kd"],
        ),
        ({"kd": 1, "combine": "distributions", "divergence": "reverse"}, []),
        ({"kd": 1, "combine": "distributions", "top_k": 5}, []),
        ({"kd": 1, "combine": "distributions", "temperature_rule": "entropy"}, []),
        ({"sequence_ot": 1, "temperature_rule": "cosine"}, ["no objective with a"]),
        ({"projected_kl": 1, "temperature_rule": "cosine"}, []),
    ],
)
def test_a_choice_that_changes_nothing_is_told(output, said):
    found = idle_settings(phase(output=output), TEACHERS)
    assert len(found) == len(said)
    for sentence, words in zip(found, said, strict=True):
        assert words in sentence and "changes nothing" in sentence


def test_without_weights_nothing_is_looked_at():
    check_outputs(phase(), REGISTRY, {"t5": TEACHERS["t5"]}, None)


class Probe:
    """A stranger's objective that reads outputs, and says what it was given."""

    needs = frozenset({"outputs"})

    def __init__(self, needs=("outputs",)):
        self.needs = frozenset(needs)
        self.given = []

    def __call__(self, ctx):
        self.given.append(ctx.outputs)
        return ctx.zero() if ctx.outputs is None else ctx.outputs.student.hidden.mean()


def with_objective(make):
    """A registry that offers a stranger's objective by the name ``probe``."""

    class Plugin:
        @hookimpl
        def objectives(self):
            return {"probe": make}

    return Registry.load(plugins=[BuiltinPhases(), Plugin()], entry_points=False)


def test_an_objective_that_needs_outputs_has_them_without_any_built_in(
    tmp_path, tiny_zoo, monkeypatch
):
    """Fails where outputs are captured for the section ``output`` alone."""
    probe = Probe()
    registry = with_objective(lambda: probe)
    loader = "experiments.config.presets.load_registry"
    monkeypatch.setattr(loader, lambda *asked: registry)
    changes = {
        "loss": {"extra": {"probe": 0.1}},
        "train": {"steps": 1, "calibration_samples": 4},
    }
    assert main(["train", str(small_config(tmp_path, tiny_zoo, changes))]) == 0
    assert probe.given and None not in probe.given
    (outputs, *_) = probe.given
    assert [one.name for one in outputs.teachers] == [*outputs.lexicons]


def test_what_an_objective_needs_is_checked_before_any_work():
    registry = with_objective(lambda: Probe({"logits"}))
    extra = phase(loss={"extra": {"probe": 1.0}})
    with pytest.raises(MtkdError, match=r"'probe'.*needs.*logits.*any of attention"):
        check_outputs(extra, registry, TEACHERS, Speaks("a", "b"))


def test_an_objective_that_needs_outputs_is_told_where_there_are_none():
    registry = with_objective(Probe)
    extra = phase(loss={"extra": {"probe": 1.0}})
    with pytest.raises(ConfigError, match=r"loss\.extra\.probe has no teacher"):
        check_outputs(extra, registry, {"t5": TEACHERS["t5"]}, Speaks("a", "b"))


def test_teachers_without_an_output_are_left_out_unless_they_are_named():
    assert teachers_of(phase(), "kd", TEACHERS) == ["twin", "foreign"]
    named = phase(output={"teachers": {"kd": ["twin"]}})
    assert teachers_of(named, "kd", TEACHERS) == ["twin"]
    assert teachers_of(named, "likelihood", TEACHERS) == ["twin", "foreign"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"kd": -1}, "output.kd is -1; give a number >= 0"),
        ({"teachers": {"kd": ["twinn"]}}, "did you mean 'twin'"),
    ],
)
def test_wrong_settings_are_refused_as_errors_of_the_config(setting, said):
    with pytest.raises(ConfigError, match=said):
        phase(output=setting)


@pytest.mark.slow
def test_teachers_of_other_vocabularies_teach_by_config_alone(
    tmp_path, tiny_zoo, monkeypatch
):
    read = []
    monkeypatch.setattr(
        vocabulary, "token_bytes", lambda one: read.append(one) or token_bytes(one)
    )
    output = {
        "hybrid_ot": 0.5,
        "ot_top_k": 8,
        "projected_kl": 0.5,
        "projected_chains": True,
        "likelihood": 0.5,
        "likelihood_ends": "blanks",
        "weighting": "entropy",
    }
    changes = {"output": output, "train": {"steps": 1, "calibration_samples": 4}}
    assert main(["train", str(small_config(tmp_path, tiny_zoo, changes))]) == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    terms = [r["terms"] for r in map(json.loads, rows) if r["kind"] == "train"]
    assert terms and all(terms[0][name] > 0 for name in output if name in terms[0])
    assert {"hybrid_ot", "projected_kl", "likelihood"} <= terms[0].keys()
    assert read and len({id(one) for one in read}) == len(read), "one is read twice"
