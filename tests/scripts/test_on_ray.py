"""What scripts/on_ray.py would have nodes of a Ray cluster do; Ray is not needed."""

import sys

import pytest
from torch.distributed import run

from experiments.cli import main


def test_every_node_gets_a_launcher_that_takes_its_words(script, capsys):
    words = ["--nodes", "2", "--gpus", "4", "train", "my.yaml", "run.dir=/runs"]
    options = script.arguments().parse_args(words)
    for node in range(2):
        command = script.launcher_words(options, node, "10.0.0.1:29500")
        assert command[:3] == [sys.executable, "-m", "experiments.launcher"]
        told = run.parse_args(command[3:])
        assert (told.nnodes, told.node_rank, told.nproc_per_node) == ("2", node, "4")
        assert told.rdzv_endpoint == "10.0.0.1:29500" and told.module
        assert told.training_script == "experiments.cli"
        assert told.training_script_args == ["train", "my.yaml", "run.dir=/runs"]
    assert main([*told.training_script_args, "--check"]) == 2
    assert "my.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "processes"),
    [(["--gpus", "0"], "1"), (["--gpus", "0", "--processes", "3"], "3"), ([], "8")],
)
def test_a_node_runs_a_process_a_gpu_unless_told(script, words, processes):
    options = script.arguments().parse_args([*words, "train", "x"])
    assert f"--nproc-per-node={processes}" in script.launcher_words(options, 0, "a:1")


def test_without_words_nothing_is_started(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--nodes", "2"])
    assert "give mtkd's words" in capsys.readouterr().err
