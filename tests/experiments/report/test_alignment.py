"""A picture of how teachers meet the student is drawn once, and never out of date."""

import shutil
from types import SimpleNamespace

import pytest

from align.pictures import visualize
from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner
from experiments.cli import main
from experiments.commands.viz import load_tokenizer
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.report import alignment
from experiments.report.alignment import draw_alignment
from tests.experiments.small_runs import DECODERS, small_config

DRAWS = True

FIRST, SECOND, THIRD = DECODERS


@pytest.fixture
def drawn(monkeypatch):
    """Names of the pictures that were written, in order."""
    names, finish = [], visualize.finish

    def spy(figure, path, metadata=None):
        if path is not None:
            names.append(path.name)
        return finish(figure, path, metadata)

    monkeypatch.setattr(visualize, "finish", spy)
    return names


@pytest.fixture(autouse=True)
def few_and_small(monkeypatch):
    """Of a run's pictures only those of how teachers meet the student, of one word."""
    draw_run = "experiments.report.figures.draw_run"
    monkeypatch.setattr(draw_run, lambda run, folder=None: [])
    monkeypatch.setattr("experiments.report.alignment.SENTENCE", "unbelievable")


@pytest.fixture
def draw(tiny_zoo, tmp_path):
    student, teacher = (load_tokenizer(str(tiny_zoo[n])) for n in ("student", FIRST))

    def one(aligner, text):
        path = tmp_path / "deep" / "a.png"
        return draw_alignment(aligner, student, teacher, text, path)

    return one


def test_an_alignment_is_drawn_between_two_tokenizers(draw):
    path = draw(CharIoUAligner(), "one two")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 1000


@pytest.mark.slow
def test_a_picture_that_would_be_the_same_is_not_drawn_again(draw, drawn):
    for _ in range(2):
        path = draw(CharIoUAligner(), "An unbelievable thing")
    assert drawn == ["a.png"]
    draw(CausalCharIoUAligner(), "An unbelievable thing")
    draw(CausalCharIoUAligner(), "An ordinary thing")
    assert len(drawn) == 3
    path.write_bytes(path.read_bytes()[:20])  # cut short
    draw(CausalCharIoUAligner(), "An ordinary thing")
    assert len(drawn) == 4


@pytest.mark.slow
def test_a_run_that_goes_on_changed_keeps_no_picture_of_what_it_was(
    tiny_zoo, tmp_path, drawn
):
    plain = {"train": {"steps": 0}, "data": {"eval_samples": 1}}
    figures = tmp_path / "run" / "figures"
    config = str(small_config(tmp_path, tiny_zoo, plain))
    before = [f"alignment_{FIRST}.png", f"alignment_{SECOND}.png", "layer_map.png"]
    assert main(["train", config]) == 0
    assert drawn == before and (figures / f"alignment_{SECOND}.png").exists()
    assert main(["train", config]) == 0
    assert drawn == before  # nothing has changed
    shutil.rmtree(tmp_path / "run" / "phases")
    models = f"{{{FIRST}: {tiny_zoo[FIRST]}, {THIRD}: {tiny_zoo[THIRD]}}}"
    changes = ["align.aligner=char_iou", "loss.outcome_every=0"]
    del drawn[:]
    config = str(small_config(tmp_path, tiny_zoo, plain | {"teachers": None}))
    assert main(["train", config, f"teachers={models}", *changes]) == 0
    assert drawn == [
        f"alignment_{FIRST}.png",
        f"alignment_{THIRD}.png",
        "layer_map.png",
    ]
    left = {picture.name for picture in figures.glob("alignment_*.png")}
    assert left == {f"alignment_{FIRST}.png", f"alignment_{THIRD}.png"}
    text = (tmp_path / "run" / "report.md").read_text()
    assert f"alignment_{THIRD}" in text and f"alignment_{SECOND}" not in text


def test_teachers_without_layers_have_no_layer_map(monkeypatch, tmp_path):
    """Served ones, and several students together: they give outputs alone."""
    config = load_config({"teachers": {"one": "a", "served": "server:http://x/v1"}})
    depths, given = {"one": 6, "served": 0}, []
    monkeypatch.setattr(
        alignment, "draw_layers", lambda *_, depths, **__: given.append(depths)
    )
    models = SimpleNamespace(
        student_layers=4,
        chosen=lambda names: {
            n: SimpleNamespace(sizes=SimpleNamespace(layers=depths[n])) for n in names
        },
    )
    run = SimpleNamespace(config=config, models=models, registry=load_registry(config))
    assert alignment._draw_maps(run, tmp_path) == {tmp_path / "layer_map.png"}
    assert given == [{"one": 6}]
    depths["one"] = 0
    assert alignment._draw_maps(run, tmp_path) == set()
    assert len(given) == 1
