"""What a config says of its teachers' sources is checked before work."""

import pytest

from align.errors import InputError
from experiments.config.parsing import ConfigError
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.run.driver import run_training
from experiments.sources.named import described_by, source_of, sources_used
from plugins import Registry, hookimpl
from plugins.errors import PluginError
from plugins.scaffold import new_plugin
from teacher.sources import TeacherSource
from tests.experiments.small_runs import small_config


def config_with(**entry):
    return load_config({"teachers": {"aunt": entry}, "phases": ["single"]})


def test_an_unknown_prefix_names_the_teacher():
    with pytest.raises(InputError, match=r"teachers\.aunt\.model: 'shop:x': no teach"):
        source_of(config_with(model="shop:x"), "aunt", load_registry())


def test_an_option_that_a_source_does_not_take_is_refused():
    config = config_with(model="zoo:gpt2-prose", options={"decay": 0.9})
    with pytest.raises(ConfigError, match=r"teachers\.aunt\.options.*decay"):
        source_of(config, "aunt", load_registry())


class Loud(TeacherSource):
    moves = "yes"


class Plugin:
    @hookimpl
    def teacher_sources(self):
        return {"loud": Loud}


def test_what_a_strangers_source_says_of_itself_is_checked_as_it_is_made():
    registry = Registry.load([Plugin()], entry_points=False)
    with pytest.raises(PluginError, match=r"teacher source 'loud'.*has moves = 'yes'"):
        source_of(config_with(model="loud:x"), "aunt", registry)
    assert sources_used(config_with(model="loud:x"), registry) == {
        ("teacher_source", "loud"): [{}]
    }


@pytest.mark.slow
def test_a_run_is_taught_by_a_strangers_source_and_notes_it(tmp_path, tiny_zoo):
    folder = new_plugin("soup", "teacher_source", tmp_path)
    model = str(tiny_zoo["gpt2-prose"])
    changes = {
        "plugins": [str(folder / "mtkd_soup.py")],
        "teachers": {"gpt2-prose": {"model": f"soup:{model},{model}"}},
    }
    config = load_config(small_config(tmp_path, tiny_zoo, changes))
    source = source_of(config, "gpt2-prose", load_registry(config))
    assert described_by(config, source) == (model, None)
    run = run_training(config)
    other = small_config(
        tmp_path,
        tiny_zoo,
        {
            **changes,
            "teachers": {
                "gpt2-prose": {
                    "model": f"soup:{model},{model}",
                    "options": {"power": 2.0},
                }
            },
        },
    )
    with pytest.raises(ConfigError, match=r"teachers\.gpt2-prose\.options"):
        run_training(load_config(other))
    assert (run / "summary.json").is_file()
