"""Teachers in 8 and 4 bits: what they say, and that a student learns from them."""

import pytest
import torch

from experiments.cli import main
from teacher import KVCapture
from teacher.models import load_model
from teacher.quantise import quantise
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
    kinds = dict(zip(DECODERS[:2], ("int8", "int4"), strict=True))
    teachers = {
        name: {"model": str(tiny_zoo[name]), "quantise": kind}
        for name, kind in kinds.items()
    }
    config = small_config(tmp_path, tiny_zoo, {"teachers": teachers})
    assert main(["train", str(config)]) == 0
    assert (tmp_path / "run" / "student" / "model.safetensors").is_file()
