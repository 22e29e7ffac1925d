"""A run by the torch engine needs neither DeepSpeed nor TensorBoard."""

import json

import pytest

from tests.experiments.small_runs import small_config
from tests.fresh import answers, given

BLOCKED = """
ABSENT = ("deepspeed", "tensorboard", "tensorboardX")

def answer(config):
    import sys, warnings
    sys.modules |= dict.fromkeys(ABSENT)  # as if nobody had installed them
    from experiments import run_training
    from experiments.config.tree import load_config
    from tests.experiments.undrawn import draw_nothing
    draw_nothing()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = run_training(load_config(config))
    met = [n for n, m in sys.modules.items() if m and n.partition(".")[0] in ABSENT]
    return [str(folder), met, [str(warning.message) for warning in caught]]
"""


@pytest.mark.slow
def test_a_run_of_the_torch_engine_needs_neither(tiny_zoo, tmp_path):
    (answer,) = answers(BLOCKED, [str(small_config(tmp_path, tiny_zoo))])
    _, met, said = given(answer)
    assert met == []
    assert sum(row.startswith("TensorBoard gets no more of this run") for row in said)
    assert json.loads((tmp_path / "run" / "state.json").read_text())["finished"]
    kinds = [
        json.loads(row)["kind"]
        for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert kinds.count("train") == 2
