"""Who of several teachers is worth asking, by hand and through the command."""

import json
import math

import numpy as np
import pytest
import torch

from align.errors import InputError
from experiments.cli import main
from experiments.config import load_config
from experiments.estimate import pool as pool_of
from experiments.teacher_pool.compared import (
    linear_cka,
    suggested,
    together,
)
from experiments.teacher_pool.read import Heard, read_pool
from tests.experiments.small_runs import DECODERS, small_config

BIT = math.log(2)


def heard(*texts, characters):
    nats = [torch.tensor(text, dtype=torch.float64) * BIT for text in texts]
    return Heard(nats=nats, characters=characters)


SPECIALISTS = {
    # bits that teachers need for two stretches of one text, then of another
    "prose": heard(
        [[-1.0, -3, -1], [-1, -3, -1]], [[-1, -3, -1], [-1, -3, -1]], characters=4
    ),
    "code": heard([[-3.0, -1, -3], [-3, -1, -3]], characters=2),
}


def test_together_is_the_better_of_mixing_and_the_right_teacher_per_text():
    assert together(SPECIALISTS, [0]) == pytest.approx((1 + 3) / 2)
    # per text 1 bit in both domains; mixed -log2((1/2 + 1/8) / 2) = 1.68
    assert together(SPECIALISTS, [0, 1]) == pytest.approx(1)
    alike = {"a": heard([[-1.0, -4], [-4, -1]], characters=2)}
    mixed = -math.log2((0.5 + 0.0625) / 2)  # the right one per text: 2.5
    assert together(alike, [0, 1]) == pytest.approx(mixed)


def test_a_further_teacher_is_suggested_for_what_it_saves():
    said = suggested(("one", "other", "twin"), SPECIALISTS)
    assert [kept.teacher for kept in said if kept.suggested] == ["one", "other"]
    assert [kept.saves for kept in said] == pytest.approx([0, 0.5, 0])
    assert said[0].bits == pytest.approx(2) and said[1].bits == pytest.approx(1)


def test_cka_is_the_centred_grams_correlation():
    """Of kernels, Kornblith et al. 2019, eq. 3: an independent way."""
    chance = np.random.default_rng(0)
    x, y = chance.normal(size=(40, 5)), chance.normal(size=(40, 7))
    y[:, :3] += x[:, :3]
    centre = np.eye(40) - 1 / 40
    grams = [centre @ (z @ z.T) @ centre for z in (x, y)]
    expected = (grams[0] * grams[1]).sum() / np.prod([np.linalg.norm(g) for g in grams])
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected)
    turned = torch.tensor(x) @ torch.linalg.qr(torch.randn(5, 5).double())[0] * 3 + 1
    assert linear_cka(torch.tensor(x), turned) == pytest.approx(1)


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_zoo):
    folder = tmp_path_factory.mktemp("pool")
    names = (*DECODERS[:2], "bert-mixed")
    teachers = {name: {"model": str(tiny_zoo[name])} for name in names}
    return small_config(folder, tiny_zoo, {"teachers": teachers})


@pytest.mark.slow
def test_the_command_says_who_and_why(config, capsys, tmp_path, monkeypatch):
    read = pool_of.compare_teachers(load_config(config))
    monkeypatch.setattr(pool_of, "compare_teachers", lambda *given, **more: read)
    picture = tmp_path / "teachers.png"
    words = ["teachers", "compare", str(config), "--json", "--out", str(picture)]
    capsys.readouterr()
    assert main(words) == 0
    pool = json.loads(capsys.readouterr().out)
    assert picture.stat().st_size > 10_000
    assert list(pool["teachers"]) == list(DECODERS[:2])
    assert "bidirectional" in pool["left_out"]["bert-mixed"]
    (pair,) = pool["pairs"]
    assert 0 < pair["cka_states"] < 1 and 0 < pair["cka_kv"] < 1
    assert -1 <= pair["correlation"] <= 1 and pair["disagreement"] > 0
    assert pair["together"] == pytest.approx(pool["together"])
    for name, teacher in pool["teachers"].items():
        (other,) = set(pool["teachers"]) - {name}
        alone = pool["teachers"][other]["bits_per_char"].values()
        assert teacher["without"] == pytest.approx(sum(alone) / len(alone))
        assert teacher["parameters"] > 0 and teacher["seconds_per_1000_chars"] > 0
    assert main(["teachers", "compare", str(config)]) == 0
    shown = capsys.readouterr().out
    assert f"suggested: {', '.join(pool['suggested'])}" in shown
    assert "the best alone" in shown and "teacher 'bert-mixed' is left out" in shown


def test_one_teacher_cannot_be_compared():
    with pytest.raises(
        InputError, match=r"two by two, and 0 of the config's 0 .*add a"
    ):
        read_pool({}, [])
