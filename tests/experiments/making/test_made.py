"""``student.make``: made once, known by its recipe, refused when that moves."""

from pathlib import Path

import pytest

import experiments.making.made as made_module
from experiments.config.parsing import ConfigError, plain
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.making.made import with_made_student
from experiments.making.texts import texts_of
from experiments.run.preflight import preflight
from teacher.names import model_source
from teacher.packages.manifest import read_manifest


@pytest.fixture
def config_of(tiny_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "texts.jsonl"
    lines = [f'{{"text": "line {n} of a small text"}}\n' for n in range(500)]
    text.write_text("".join(lines), encoding="utf-8")

    def config(*more):
        source = str(tiny_zoo["qwen-code"])
        settings = [
            f"run.dir={tmp_path}",
            f"student.model={source}",
            f"teachers={{whole: {{model: {source}}}}}",
            f"data.train=[{text}]",
            "student.make={use: layers, keep: 1, rule: importance}",
            "align.layer_mapping_strategy=origin",
        ]
        return load_config(None, [*settings, *more])

    return config


def test_it_is_made_once_and_its_own_config_gives_it_again(config_of, monkeypatch):
    config = with_made_student(config_of(), load_registry())
    assert config.student.model.startswith("made:")
    folder = Path(model_source(config.student.model))
    manifest = read_manifest(folder)
    assert manifest.making.options == {"keep": 1, "rule": "importance"}
    assert len(manifest.making.layers) == 1

    def never(*_, **__):
        raise AssertionError("it is there")

    monkeypatch.setattr(made_module, "make_student", never)
    again = load_config(plain(config))
    assert with_made_student(again, load_registry()) == config
    assert "1 kept" not in str(preflight(config_of()))
    told = [line for line in preflight(config_of()) if line.startswith("student: ")]
    assert "kept by importance" in told[0]
    assert config.student.model in told[0]


def test_what_the_recipe_no_longer_makes_is_refused(config_of):
    registry = load_registry()
    config = with_made_student(config_of(), registry)
    changed = load_config(plain(config), ["student.make.rule=uniform"])
    with pytest.raises(ConfigError, match=r"student\.make makes made:\w+ of "):
        with_made_student(changed, registry)
    with pytest.raises(ConfigError, match=r"student\.make\.layers"):
        with_made_student(config_of("student.make={use: layers, layers: 1}"), registry)
    other = with_made_student(config_of("student.make.keep=2"), registry)
    assert other.student.model != config.student.model


def test_of_many_texts_the_front_is_read_and_all_files_are_heard(tmp_path):
    for name in "ab":
        lines = [f"{name} {n}\n\n" for n in range(400)]
        (tmp_path / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    good = "".join(f'{{"text": "c {n}"}}\n' for n in range(400))
    rows.write_text(f"{good}no JSON at all\n", encoding="utf-8")  # never reached
    data = load_config(None, [f"data.train=[{tmp_path}]"]).data
    texts = texts_of(data, 6)
    assert len(texts) == 6
    assert {text[0] for text in texts} >= {"c"}
    assert [text for text in texts if text[0] == "c"][-1] == "c 8"
