"""Every packaged recipe: written for people, true, and one that runs."""

import re

import pytest

from experiments.assemble.checks import check_settings
from experiments.cli import main
from experiments.config.packaged import RECIPES, recipes, what_for
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import load_config, resolve_phases
from experiments.estimate.shapes import PUBLISHED, planned_model
from teacher.names import ZOO
from tests.experiments.recipes.planned import plan_of
from tests.experiments.recipes.shrunk import FAMILIES, shrunk_models
from tests.experiments.small_runs import said, write_text

NAMES = recipes()


def text_of(name):
    return (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")


def hub_models(config):
    models = [config.student.model, *(t.model for t in config.teachers.values())]
    return {model for model in models if not model.startswith(ZOO)}


def test_there_is_one_for_each_thing_that_people_do():
    assert len(NAMES) == 10
    assert {"one_teacher", "one_card", "two_nodes", "qwen_from_gpt2"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_resolves_and_its_settings_go_together(name):
    config = load_config(name)
    assert config.run.name == name
    registry = load_registry(config)
    phases = resolve_phases(config, presets_of(registry))
    check_settings(config, phases, registry)
    for phase in phases:
        facts = {n: planned_model(t.model) for n, t in config.teachers.items()}
        assert phase.select(facts) == list(config.teachers)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_for_and_why_each_setting_is_as_it_is(name):
    head, lines = [], text_of(name).splitlines()
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line)
    for word in ("# Hardware: ", "# Time: ", "# Change: "):
        assert sum(line.startswith(word) for line in head) == 1
    assert 40 < len(what_for(text_of(name))) < 220
    opens = re.compile(r"\s*[\w-]+:")  # a section, whose settings follow
    for line in lines[len(head) :]:
        assert "  # " in line or opens.fullmatch(line), line
        assert len(line) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_models_that_it_names_can_be_planned_without_their_files(name):
    assert hub_models(load_config(name)) <= PUBLISHED.keys()


def test_the_exact_values_of_qwen_from_gpt2():
    config = load_config("qwen_from_gpt2")
    assert config.student.model == "Qwen/Qwen2.5-0.5B-Instruct"
    assert list(config.teachers) == ["gpt2", "gpt2-medium", "gpt2-large"]
    (phase,) = resolve_phases(config, presets_of(load_registry(config)))
    assert (phase.name, phase.fuse.router) == ("routing", "attention")
    train = phase.train
    assert (train.batch_size, train.grad_accum, config.data.max_length) == (4, 8, 512)
    assert (train.num_epochs, train.steps, train.learning_rate) == (3, None, 2e-5)


def test_list_show_and_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    assert main(["recipes", "show", "one_card"]) == 0
    assert capsys.readouterr().out == text_of("one_card")
    assert main(["recipes", "copy", "one_card"]) == 0
    assert "mtkd train one_card.yaml --dry-run" in capsys.readouterr().out
    assert (tmp_path / "one_card.yaml").read_text() == text_of("one_card")
    assert main(["recipes", "copy", "one_card", "my.yaml"]) == 0
    assert load_config("my.yaml").run.name == "my"


def test_what_cannot_be_copied_is_said_and_nothing_is_overwritten(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("mine")
    code, message = said(["recipes", "copy", "one_card", "my.yaml"], capsys)
    assert code == 2 and "my.yaml is there already and is left as it is" in message
    assert "`mtkd recipes copy one_card PATH`" in message  # never the path refused
    assert (tmp_path / "my.yaml").read_text() == "mine"
    code, message = said(["recipes", "copy", "one_card", "no/my.yaml"], capsys)
    assert code == 2 and "no/my.yaml cannot be written" in message
    code, message = said(["recipes", "copy", "one_card", "new/"], capsys)
    assert code == 2 and "there is no folder new" in message
    code, message = said(["recipes", "show", "one_crad"], capsys)
    assert code == 2 and "did you mean 'one_card'" in message
    code, message = said(["recipes", "show", "../configs/quality"], capsys)
    assert code == 2 and "there is no recipe" in message
    code, message = said(["train", "one_crad", "--check"], capsys)
    assert code == 2 and "nor a recipe (bigger_brother" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_memory_that_it_names_is_what_is_planned(name):
    (planned,) = re.findall(r"([\d.]+) GiB planned", text_of(name))
    size = sum(line.size for line in plan_of(name)) / 2**30
    assert size == pytest.approx(float(planned), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_takes_its_first_step_with_small_models_of_the_same_architectures(
    name, tiny_zoo, tmp_path, monkeypatch, capsys
):
    if "quantise" in text_of(name):
        pytest.importorskip("bitsandbytes")
        pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    texts = {"my_texts.jsonl", *re.findall(r"[\w]+\.jsonl", text_of(name))}
    for text in texts:
        source = write_text(tmp_path / "some.txt").read_text().split("\n\n")
        rows = [
            f'{{"text": "{part.strip()} {text} {n}"}}'
            for n, part in enumerate(source * 2)
        ]
        (tmp_path / text).write_text("\n".join(r for r in rows if '""' not in r))
    for side in ("train.en", "train.de", "val.en", "val.de"):
        lines = [f"{side[-2:]} {side} sentence {n}" for n in range(40)]
        (tmp_path / side).write_text("\n".join(lines))
    config = load_config(name)
    models = shrunk_models(hub_models(config), tmp_path / "models", tiny_zoo)
    words = [f"student.model={models[config.student.model]}"]
    words += [
        f"teachers.{n}.model={models[t.model]}" for n, t in config.teachers.items()
    ]
    words += [
        "data.max_length=48",
        "train.calibration_samples=16",
        "train.grad_accum=1",
    ]
    words += ["data.eval_samples=4", "phase.all.train.steps=2"]
    if config.store.read:
        assert main(["extract", name, *words]) == 0
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", name, *words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"phase {config.phases[0]}: " in shown
    assert "the first step: loss " in shown
    assert "nothing was written to" in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_every_architecture_of_the_recipes_has_a_small_model():
    families = {planned_model(name).family for name in PUBLISHED}
    assert families == FAMILIES.keys()
