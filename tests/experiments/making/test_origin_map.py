"""The map by which a made student's layers read those that they were."""

import pytest

from experiments.config.parsing import ConfigError
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phases
from experiments.making.make import Recipe, make_student
from experiments.making.origin_map import with_origin_maps


@pytest.fixture(scope="module")
def made(tiny_zoo, tmp_path_factory):
    """A student that is the upper of two layers."""
    out = tmp_path_factory.mktemp("made") / "upper"
    recipe = Recipe(source=str(tiny_zoo["qwen-code"]), options={"keep": [1]})
    make_student(recipe, load_registry(), out)
    return out


def phases_of(student, teachers, *more):
    config = load_config(
        {
            "student": {"model": str(student)},
            "teachers": {name: {"model": str(m)} for name, m in teachers.items()},
            "phases": ["multi_basic"],
        },
        list(more),
    )
    return config, resolve_phases(config, builtin_presets())


ORIGIN = "align.layer_mapping_strategy=origin"


def test_the_source_is_known_by_its_weights_whatever_its_name_is(
    made, tiny_zoo, tmp_path
):
    moved = tmp_path / "elsewhere"
    moved.symlink_to(tiny_zoo["qwen-code"])
    teachers = {"whole": moved, "other": tiny_zoo["gpt2-prose"]}
    (phase,) = with_origin_maps(*phases_of(made, teachers, ORIGIN))
    assert phase.align.layer_map == {"whole": [1]}


def test_what_is_written_out_stays_and_other_strategies_know_nothing_of_it(
    made, tiny_zoo
):
    teachers = {"whole": tiny_zoo["qwen-code"], "other": tiny_zoo["gpt2-prose"]}
    written = "align.layer_map={whole: [0]}"
    (phase,) = with_origin_maps(*phases_of(made, teachers, ORIGIN, written))
    assert phase.align.layer_map == {"whole": [0]}
    config, phases = phases_of(made, teachers)
    assert with_origin_maps(config, phases) == phases


def test_a_student_that_was_not_made_and_teachers_that_are_not_the_source_are_refused(
    made, tiny_zoo
):
    whole = {"a": tiny_zoo["qwen-code"], "b": tiny_zoo["gpt2-prose"]}
    with pytest.raises(ConfigError, match=r"nothing says what student\.model="):
        with_origin_maps(*phases_of(tiny_zoo["student"], whole, ORIGIN))
    others = {"a": tiny_zoo["neox-mixed"], "b": tiny_zoo["gpt2-prose"]}
    with pytest.raises(ConfigError, match=r"no teacher is .*qwen-code, which"):
        with_origin_maps(*phases_of(made, others, ORIGIN))
