import math
import shlex

import pytest
import yaml

from experiments.config.packaged import (
    CONFIGS,
    _note_spelling,
    names_in,
    recipes,
)
from experiments.config.parsing import ConfigError
from experiments.config.phase_choice import PHASES
from experiments.config.schema import ANY_NAME, valid_names
from experiments.config.tree import (
    Config,
    config_path,
    config_text,
    hidden_settings,
    load_config,
    resolve_phase,
    resolve_phases,
    save_config,
)
from teacher.packages.known import KNOWN
from teacher.teacher_rule import TeacherFacts

FOUR = "teachers=[p, q, r, zoo:s]"


def test_the_saved_config_reloads_to_an_equal_one(tmp_path):
    config = load_config(
        None,
        [
            "teachers={a: {model: x, weight: 0.5}, b: y}",
            "train.learning_rate=1e-5",
            "phase.all.fuse.temperature=0.3",
            "phase.dual.teachers=[b, a]",
            "align.layer_map={a: [0, 3]}",
            "baselines.single_teachers=[a]",
            "data.eval=[prose=held.txt]",
            "loss.extra={mine: 0.5}",
        ],
    )
    save_config(config, tmp_path / "run" / "config.yaml")
    assert load_config(tmp_path / "run" / "config.yaml") == config
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("fuse: {temperature: 0.5, z_dim: 8}\ntrain: {batch_size: 4}\n")
    config = load_config(path, ["fuse.temperature=0.25"])
    assert config.fuse.temperature == 0.25
    assert config.fuse.z_dim == 8
    assert config.train.batch_size == 4
    assert config.loss.lambda_k == 1.0
    assert config.run.name == "mine"


def test_of_two_overrides_of_one_setting_the_last_wins():
    # as with flags of any command: a script's own come first, its user's after them
    config = load_config(None, ["train.steps=3", "train.steps=4"])
    assert config.train.steps == 4


def test_a_key_that_stands_twice_in_a_file_or_an_override_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {steps: 2}\nfuse: {z_dim: 8}\ntrain: {batch_size: 1}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: 'train' .*lines 1 and 3"):
        load_config(path)
    with pytest.raises(ConfigError, match="override 'train': 'steps' stands twice"):
        load_config(None, ["train={steps: 1, steps: 2}"])


@pytest.mark.parametrize(
    "override",
    [
        "loss.extra.mine=0.5",
        "phase.routing.loss.extra.mine=0.5",
        "phase.all.loss.extra.mine=5e-1",
        "loss.extra={mine: 0.5}",
    ],
)
def test_an_extra_terms_weight_is_a_setting_like_any_other(override, presets):
    phase = resolve_phase(load_config(None, [FOUR, override]), "routing", presets)
    assert phase.loss.extra == {"mine": 0.5}


def test_every_mapping_of_free_names_takes_overrides():
    config = load_config(
        None,
        [
            FOUR,
            "teachers.q.model=./other",
            "teachers.q.weight=2",
            "output.teachers.kd=[p, q]",
            "align.layer_map.p=[0, 1]",
        ],
    )
    assert (config.teachers["q"].model, config.teachers["q"].weight) == ("./other", 2)
    assert config.output.teachers == {"kd": ["p", "q"]}
    assert config.align.layer_map == {"p": [0, 1]}


@pytest.mark.slow
def test_no_wrong_override_shows_a_name_of_ours():
    names = list(valid_names(Config))
    sections = {name.rpartition(".")[0] for name in names}
    # these have any options
    chosen = ("fusion_method", "router_type", "space", "terms", "balance", "options")
    chosen += ("make", "writer", "transform", "choice", "curriculum", "select")
    for name in names:
        if name.endswith(tuple(f".{key}" for key in chosen)):
            continue
        if name not in sections and not name.startswith(f"phase.{ANY_NAME}.train"):
            with pytest.raises(ConfigError) as refused:
                load_config(None, [FOUR, name.replace(ANY_NAME, "p") + ".x.y=odd"])
            assert "Typed" not in str(refused.value)


def test_each_phase_lays_preset_then_all_then_its_own_over_the_general():
    presets = {"one": {"fuse": {"temperature": 2, "z_dim": 2, "num_clusters": 2}}}
    config = load_config(
        None,
        [
            "teachers=[t]",
            "phases=[one]",
            "fuse.temperature=1.5",
            "fuse.z_dim=1",
            "fuse.num_clusters=1",
            "fuse.z_hidden=7",
            "phase.all.fuse.z_dim=3",
            "phase.all.fuse.num_clusters=3",
            "phase.one.fuse.num_clusters=4",
        ],
    )
    fuse = resolve_phase(config, "one", presets).fuse
    assert (fuse.z_hidden, fuse.temperature, fuse.z_dim, fuse.num_clusters) == (
        7,
        2.0,
        3,
        4,
    )


def test_every_builtin_preset_resolves(presets):
    phases = resolve_phases(load_config(None, [FOUR]), presets)
    assert [phase.name for phase in phases] == list(PHASES)
    assert all(phase.teachers == ["p", "q", "r", "s"] for phase in phases)
    methods = [phase.fuse.fusion_method for phase in phases]
    assert methods == ["fixed", "fixed", "similarity", "learnable", "learnable"]
    assert phases[4].fuse.space == "z"
    assert len({phase.title for phase in phases}) == len(PHASES)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["teachers=[p]"], ["single"]),
        (["teachers=[p, q]"], ["dual", "multi_basic", "z_space"]),
        (["teachers=[p, q, r]"], list(PHASES)),
        (["teachers=[p]", "phase.routing.teachers.min=1"], ["routing"]),
        (["teachers=[p]", "phase.all.teachers={min: 1}"], list(PHASES)),
        (["teachers=[p, q]", "phases=[single]"], ["single"]),
        (["teachers=[zoo:gpt2-prose, zoo:bert-mixed]"], ["z_space"]),
        (["teachers=[p, zoo:bert-mixed]"], ["z_space"]),  # p may be of any kind
        (["teachers=[zoo:tiny/t5-mixed, zoo:bert-mixed]"], ["z_space"]),
        (["teachers=[zoo:bert-mixed]"], ["single"]),
        (
            ["teachers=[zoo:bert-mixed, zoo:gpt2-prose, zoo:qwen-code]"],
            ["dual", "multi_basic", "z_space"],
        ),
        (
            ["teachers=[p, zoo:bert-mixed]", "phase.dual.teachers=[p, bert-mixed]"],
            ["dual", "z_space"],
        ),
        (
            ["teachers=[p, zoo:bert-mixed]", "phase.dual.teachers.kinds=[encoder]"],
            ["dual", "z_space"],
        ),
    ],
)
def test_phases_that_are_not_given_are_those_the_teachers_are_enough_for(
    presets, overrides, names
):
    phases = resolve_phases(load_config(None, overrides), presets)
    assert [phase.name for phase in phases] == names


def test_presets_register_through_the_plugin_hook(presets):
    from experiments.config.presets import BuiltinPhases, builtin_presets

    assert builtin_presets() == presets
    assert BuiltinPhases().phases() == presets


def test_a_phase_takes_the_teachers_it_names(presets):
    config = load_config(None, [FOUR, "phase.dual.teachers=[s, p]"])
    phase = resolve_phase(config, "dual", presets)
    facts = {name: TeacherFacts(kind="decoder", family=name) for name in "pqrs"}
    assert phase.teachers == phase.select(facts) == ["s", "p"]


def test_a_phase_says_which_teachers_fit_when_too_few_do(presets):
    phase = resolve_phase(load_config(None, [FOUR]), "routing", presets)
    facts = {name: TeacherFacts(kind="encoder", family="bert") for name in "pqrs"}
    facts["p"] = TeacherFacts(kind="decoder", family="gpt2")
    with pytest.raises(ConfigError, match=r"at least 3 teachers.*1 fit \(p\)"):
        phase.select(facts)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"phase 'dual' needs at least 2 teachers"),
        (
            ["teachers=[p]", "phases=[dual]"],
            r"phase 'dual' needs at least 2 teachers",
        ),
        (
            ["teachers=[p, q]", "phases=[real_multi]"],
            r"phase 'real_multi' needs at least 3 teachers",
        ),
        ([FOUR, "phases=[duel]"], r"phases: duel is not known; did you mean 'dual'\?"),
        ([FOUR, "phase.duel.train.steps=1"], r"phase\.duel is not known; did you mean"),
        ([FOUR, "phase.all.like=duel"], r"phase\.all\.like duel is not known; did you"),
        ([FOUR, "phase.dual.teachers=[x]"], r"names 'x', which is not known.*p, q, r"),
        (
            [FOUR, "phase.dual.fuse.temperature=0"],
            r"phase\.dual\.fuse\.temperature is 0",
        ),
        (
            [FOUR, "phase.dual.teachers.max=1"],
            r"^teachers\.min is 2 by the preset 'dual' of phase 'dual', and "
            r"phase\.dual\.teachers\.max is 1, which is less; set .*max to 2 or more",
        ),
        (
            [FOUR, "phase.all.teachers.min=5", "phases=[dual]"],
            r"^phase\.all\.teachers\.min is 5, and teachers\.max is 2 by the preset 'd",
        ),
        (
            [FOUR, "phase.dual.teachers={min: 1, max: 0}"],
            r"^phase\.dual\.teachers\.min is 1, and phase\.dual\.teachers\.max is 0, ",
        ),
    ],
)
def test_a_phase_that_cannot_run_is_refused_before_work(presets, overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve_phases(load_config(None, overrides), presets)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fuse.temprature=1", r"did you mean 'fuse\.temperature'"),
        ("train.router_type=mlp", r"did you mean 'fuse\.router_type'"),
        ("phase.dual.fuse.temprature=1", r"mean 'phase\.dual\.fuse\.temperature'"),
        ("train.steps=abc", r"train\.steps is 'abc'; give an integer >= 0 or null"),
        ("data.train=a.txt", r"data\.train is 'a\.txt'; give a list"),
        ("data.train=[]", r"data\.train is empty"),
        ("data.eval_share=0.9", r"eval_share is 0\.9; give a number in \(0, 0\.5\]"),
        ("run.name=a/b", r"run\.name is 'a/b'; give a folder name"),
        ("run.name=..", r"run\.name is '\.\.'; give a folder name"),
        ("run.name='-x'", r"run\.name is '-x'; give a folder name"),
        ("store.name=..", r"store\.name is '\.\.'; give a folder name"),
        ('run.name="a\\tb"', r"run\.name is .*control characters"),
        ("phases=[dual, dual]", r"phases names 'dual' twice"),
        ("phases=[]", r"phases is empty"),
        ("teachers={qwen2.5: x}", r"teachers has 'qwen2\.5'; name teachers with"),
        ("teachers=[a/x, b/x]", r"share a last path part"),
        ("align.layer_map={zz: [0]}", r"align\.layer_map names 'zz'"),
        (
            "align.layer_map.b=[-1, 0]",
            r"align\.layer_map\.b\[0\] is -1; give an integer >= 0",
        ),
        ("align.min_coverage=2", r"min_coverage is 2; give a number in \[0, 1\]"),
        ("baselines.single_teachers=[zz]", r"single_teachers names 'zz'"),
        ("loss.lambda_k=-1", r"loss\.lambda_k is -1; give a number >= 0"),
    ],
)
def test_wrong_settings_are_refused_by_name(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [FOUR, override])


def test_a_broken_preset_is_named():
    config = load_config(None, ["teachers=[t]", "phases=[odd]"])
    with pytest.raises(ConfigError, match=r"preset of phase 'odd': unknown config key"):
        resolve_phase(config, "odd", {"odd": {"fuse": {"temprature": 1}}})


def test_teachers_may_be_given_short():
    config = load_config(
        {"teachers": {"a": "models/a"}}, ["teachers.a.weight=2", "teachers.b=zoo:b"]
    )
    assert config.teachers["a"].model == "models/a"
    assert config.teachers["a"].weight == 2.0
    assert config.teachers["b"].model == "zoo:b"
    replaced = load_config({"teachers": {"a": "x"}}, ["teachers=[hub/gpt2]"])
    assert {name: t.model for name, t in replaced.teachers.items()} == {
        "gpt2": "hub/gpt2"
    }


def test_data_sources_split_domain_from_path():
    config = load_config(None, ["data.train=[code=a/b.txt, c=d/e=f.txt, ./x=y, zoo]"])
    assert config.data.sources("train") == [
        ("code", "a/b.txt"),
        ("c", "d/e=f.txt"),
        (None, "./x=y"),
        (None, "zoo"),
    ]


def test_packaged_configs_load_by_name(presets):
    config = load_config("quickstart")
    assert config.run.name == "quickstart"
    assert len(resolve_phases(config, presets)) == 5
    assert config_path("quickstart").is_file()
    with pytest.raises(ConfigError, match=r"neither a file nor .*mean 'quickstart'\?"):
        load_config("quikstart")


def test_a_packaged_config_is_known_by_its_earlier_spelling_which_is_noted(capsys):
    _note_spelling.cache_clear()
    for _ in range(2):
        assert config_path("real-pruned") == config_path("real_pruned")
    said = "note: the packaged config real-pruned is called real_pruned\n"
    assert capsys.readouterr().err == said
    assert all("-" not in name for name in [*names_in(CONFIGS), *recipes()])


def test_real_teachers_come_from_packages_and_each_is_a_baseline(presets):
    config = load_config("real")
    models = {name: teacher.model for name, teacher in config.teachers.items()}
    assert models == {"smollm2": "pkg:smollm2", "minilm": "pkg:minilm"}
    assert config.student.model == "zoo:real/student"
    assert config.baselines.single_teachers == "all"
    phase = resolve_phase(config, "real_multi", presets)
    assert phase.train.optimizer == "muon" and phase.output.projected_kl == 1


def test_half_of_a_real_model_is_healed_by_the_whole_layer_by_layer(presets):
    config = load_config("real_pruned")
    assert config.teachers["smollm2"].model == "pkg:smollm2"
    phase = resolve_phase(config, "single", presets)
    assert phase.align.layer_mapping_strategy == "origin"
    assert phase.fuse.space == "losses" and phase.output.kd == 1
    assert config.baselines.ce_only and not hidden_settings(config, presets)


def test_a_third_teacher_joins_the_real_ones_by_the_words_in_their_config():
    head = config_path("real").read_text().partition("run:")[0]
    words = shlex.split(head[head.index("mtkd train real run.name") :].replace("#", ""))
    config = load_config("real", [word for word in words[3:] if word.strip()])
    models = {name: teacher.model for name, teacher in config.teachers.items()}
    assert models == {
        "smollm2": "pkg:smollm2",
        "minilm": "pkg:minilm",
        "gemma3": "pkg:gemma3",
    }
    assert KNOWN["gemma3"].kind == "decoder" and config.teachers["gemma3"].dtype
    assert config.answers.keep == ["smollm2", "gemma3"]


def test_the_tiny_quickstart_is_the_quickstart_in_miniature(presets):
    whole, tiny = load_config("quickstart"), load_config("quickstart_tiny")
    assert {
        n: t.model.replace("zoo:", "zoo:tiny/") for n, t in whole.teachers.items()
    } == {n: t.model for n, t in tiny.teachers.items()}
    assert tiny.baselines == whole.baselines and tiny.output == whole.output
    names = [[p.name for p in resolve_phases(c, presets)] for c in (whole, tiny)]
    assert names[0] == names[1]


def test_config_text_is_plain_yaml():
    assert load_config(yaml.safe_load(config_text(Config()))) == Config()


def test_a_general_setting_that_a_preset_hides_is_pointed_out():
    presets = {"dual": {"fuse": {"space": "student"}}, "routing": {}}
    config = load_config({"phases": ["dual", "routing"], "fuse": {"space": "z"}})
    (sentence,) = hidden_settings(config, presets)
    assert sentence == (
        "fuse.space has no effect in dual, whose preset sets it; "
        "phase.all.fuse.space would win"
    )
    in_z = {"fuse": {"space": "z"}}
    aware = load_config({"phases": ["dual"], **in_z, "phase": {"all": in_z}})
    assert hidden_settings(aware, presets) == []
    assert hidden_settings(load_config({"phases": ["dual"]}), presets) == []


def test_a_setting_written_as_one_key_of_a_file_is_told_how_to_be_nested():
    with pytest.raises(ConfigError, match=r"write loss: \{lambda_k: …\}$"):
        load_config({"loss.lambda_k": 3}, [])


def test_what_a_teacher_s_section_refuses_names_the_teacher():
    teacher = {"model": "zoo:gpt2-prose", "revision": "v1"}
    with pytest.raises(ConfigError, match=r"^teachers\.a\.revision is 'v1', but teac"):
        load_config({"teachers": {"a": teacher}}, [])


def test_a_temperature_of_domains_may_have_no_end():
    config = load_config({}, ["data.mix_temperature=.inf"])
    assert config.data.mix_temperature == math.inf
