"""A mistake in a program ends a run with 1 and is kept where the run lies."""

import errno

import pytest
import torch

from align.errors import during, prefix_errors
from experiments.config.parsing import ConfigError
from experiments.record.failures import ERRORS, kept_errors, line_of
from experiments.report.status import describe
from plugins.errors import PluginCrashError
from tests.experiments.small_runs import said, small_config

WRONG_PRODUCT = """
import torch
from plugins import hookimpl

class Wrong:
    needs = frozenset()
    def __call__(self, ctx):
        if ctx.logits.shape[-1] < 100:  # as its contract tries it
            return ctx.logits[ctx.batch.mask].square().mean()
        return (torch.ones(2, 3) @ torch.ones(2, 3)).sum()

@hookimpl
def objectives():
    return {"wrong": Wrong}
"""


def test_a_plugins_torch_error_ends_with_1_and_names_plugin_phase_and_traceback(
    tiny_zoo, tmp_path, capsys
):
    (tmp_path / "wrong_product.py").write_text(WRONG_PRODUCT)
    config = small_config(tmp_path, tiny_zoo, {"loss": {"extra": {"wrong": 1.0}}})
    plugin = str(tmp_path / "wrong_product.py")
    code, message = said(["train", str(config), "--plugin", plugin], capsys)
    assert code == 1
    assert message.startswith("mtkd: failed: objective 'wrong'")
    assert "should not have happened" not in message
    assert "mat1 and mat2 shapes cannot be multiplied" in message
    assert "in phase 'dual' of arm 'main'" in message
    (kept,) = (tmp_path / "run" / ERRORS).iterdir()
    assert str(kept) in message
    text = kept.read_text()
    assert "wrong_product.py" in text and "torch.ones(2, 3) @" in text
    (launch,) = describe(tmp_path / "run")["attempts"]
    assert launch["how"] == "failed" and str(kept) in launch["why"]


@pytest.mark.slow
def test_a_torch_error_of_ours_ends_with_1_and_is_kept_too(
    tiny_zoo, tmp_path, monkeypatch, capsys
):
    from experiments.run import phase as stage

    def multiply(*_, **__):
        return torch.ones(2, 3) @ torch.ones(2, 3)

    monkeypatch.setattr(stage, "build_phase_teachers", multiply)
    code, message = said(["train", str(small_config(tmp_path, tiny_zoo))], capsys)
    assert code == 1
    assert message.startswith("mtkd: this should not have happened (RuntimeError: mat1")
    (kept,) = (tmp_path / "run" / ERRORS).iterdir()
    assert f"in phase 'dual' of arm 'main', traceback in {kept}" in message


def test_what_the_user_can_put_right_leaves_no_traceback(tmp_path):
    with pytest.raises(ConfigError), kept_errors(tmp_path):
        raise ConfigError("train.steps is 'many'; give an integer")
    assert list(tmp_path.iterdir()) == []


def test_notes_say_where_from_the_inside_out():
    with pytest.raises(KeyError) as caught, during("a run"), during("phase 'dual'"):
        raise KeyError("x")
    assert "(KeyError: 'x'), in phase 'dual', in a run; it is" in line_of(caught.value)


def test_a_plugins_failure_is_never_ours_to_repair():
    error = PluginCrashError("router 'x' of acme 1.2: IndexError: 3", kind="router")
    error.add_note("in phase 'dual'")
    shown = line_of(error)
    assert shown == "failed: router 'x' of acme 1.2: IndexError: 3, in phase 'dual'"


def test_a_place_goes_in_front_of_what_the_user_can_put_right_alone():
    with pytest.raises(PluginCrashError) as crash, prefix_errors("data.train"):
        raise PluginCrashError("gone")
    assert str(crash.value) == "data.train: gone"
    with pytest.raises(ValueError) as ours, prefix_errors("data.train"):
        raise ValueError("ours")
    assert str(ours.value) == "ours"


@pytest.mark.parametrize(
    ("file", "told"),
    [("runs/x/metrics.jsonl", "runs/x/metrics.jsonl"), (None, "what is written to")],
)
def test_a_file_that_is_too_large_is_no_full_disk(file, told):
    line = line_of(OSError(errno.EFBIG, "File too large", file))
    assert line.startswith(f"error: {told} would be larger than a file of this process")
    assert "`ulimit -f`" in line and "disk is full" not in line
