"""Teachers in 8 and 4 bits: what they say, and that a student learns from them."""

import json

import pytest
import torch

from experiments.cli import main
from teacher import KVCapture
from teacher.loading.models import load_model
from teacher.loading.quantise import quantise
from tests.experiments.small_runs import DECODERS, small_config

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.01), ("int4", 0.4)])
@pytest.mark.parametrize("name", DECODERS)
def test_a_trained_teacher_says_nearly_the_same(tiny_zoo, name, kind, most):
    loaded = load_model(str(tiny_zoo[name]))
    texts = ["The router learns which teacher helps.", "def read(path): return path"]
    encoded = loaded.tokenizer(texts, return_tensors="pt", padding=True)
    ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
    with torch.no_grad():
        exact = KVCapture(loaded.model)(ids, mask).kv
        quantise(loaded.model, kind)
        found = KVCapture(loaded.model)(ids, mask).kv
    for side in ("k", "v"):
        one, other = (
            getattr(kv, side).transpose(2, 3)[:, mask] for kv in (exact, found)
        )
        off = float((other - one).norm() / one.norm())
        assert 0 < off < most, (side, off)


def test_a_student_learns_from_quantised_teachers(tiny_zoo, tmp_path):
    def losses(folder, kinds):
        teachers = {
            name: {"model": str(tiny_zoo[name]), "quantise": kind}
            for name, kind in zip(DECODERS[:2], kinds, strict=True)
        }
        folder.mkdir()
        config = small_config(folder, tiny_zoo, {"teachers": teachers})
        assert main(["train", str(config)]) == 0
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        told = [json.loads(line) for line in lines]
        return [line["loss"] for line in told if "loss" in line]

    exact = losses(tmp_path / "exact", ("none", "none"))
    found = losses(tmp_path / "found", ("int8", "int4"))
    assert exact and found != exact
    assert found == pytest.approx(exact, rel=0.1)
