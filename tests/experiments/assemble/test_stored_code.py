"""A store is read by the code that made it, or not at all."""

from types import SimpleNamespace

import pytest

from experiments.assemble.stored_code import check_code, code_of
from experiments.config.parsing import ConfigError
from plugins import Registry
from teacher.store.writer import check_plan
from tests.experiments.small_runs import said, small_config
from tests.teacher.store.conftest import make_plan

ALIGNER = """
from align import CausalCharIoUAligner, LastTokenAligner
from plugins import hookimpl


@hookimpl
def aligners():
    return {{"mine": {name}}}
"""
NAMES = [("aligner", "mine"), ("adapter", "ridge")]


@pytest.fixture
def plugin(tmp_path):
    """Writes a file of a plugin with one aligner; a file is imported only once."""

    def write(name):
        file = tmp_path / f"{name.lower()}_mine.py"
        file.write_text(ALIGNER.format(name=name), encoding="utf-8")
        return str(file)

    return write


def registry(*plugins):
    return Registry.load(list(plugins), entry_points=False)


def stored(fingerprint):
    return SimpleNamespace(path="kv", plan=SimpleNamespace(fingerprint=fingerprint))


def test_a_store_that_other_code_made_is_refused_until_asked_for(plugin):
    old, new = map(registry, map(plugin, ("CausalCharIoUAligner", "LastTokenAligner")))
    made = stored(code_of(old, NAMES))
    assert list(made.plan.fingerprint["plugins"]) == ["aligner mine"]
    check_code([made], old)
    with pytest.raises(ConfigError, match="kv was extracted with other code: aligner"):
        check_code([made], new)
    check_code([made], new, changed_plugins=True)


def test_stores_without_code_and_built_ins_pass(plugin):
    now = registry(plugin("LastTokenAligner"))
    assert code_of(now, [("adapter", "ridge")]) == {}
    check_code([stored({}), stored(code_of(now, NAMES))], now)
    check_code([stored(code_of(now, NAMES))], registry())


@pytest.mark.slow
def test_a_run_reads_no_store_that_a_plugins_earlier_code_aligned(
    plugin, tiny_zoo, tmp_path, capsys
):
    changes = {
        "align": {"aligner": "mine"},
        "data": {"train_samples": 8},
        "phase": {"all": {"loss": {"gamma_kl": 0}}},
        "store": {"dir": str(tmp_path / "kv"), "name": "kv", "form": "aligned"},
    }
    config = str(small_config(tmp_path, tiny_zoo, changes))
    old, new = map(plugin, ("CausalCharIoUAligner", "LastTokenAligner"))
    assert said(["extract", config, "--plugin", old], capsys) == (0, "")
    code, message = said(["train", config, "store.read=true", "--plugin", new], capsys)
    assert code == 2 and "was extracted with other code: aligner 'mine'" in message
    code, message = said(["extract", config, "--plugin", new], capsys)
    assert code == 2 and "plugins.aligner mine.digest: stored" in message


def test_a_store_of_a_version_that_kept_no_code_goes_on(tmp_path):
    old = make_plan()
    kept = {**old.fingerprint, "plugins": {"aligner mine": {"digest": "ab"}}}
    check_plan(tmp_path, old, old.model_copy(update={"fingerprint": kept}))
