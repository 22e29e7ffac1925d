"""Layer maps that look at what layers compute, through the command."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from align.errors import InputError
from align.layer_similarity import similarity_layer_map
from experiments.assemble import teaching
from experiments.assemble.layer_maps import check_depth, crowded_layers
from experiments.cli import main
from experiments.config.sections import AlignConfig
from experiments.report import alignment, figures
from plugins import Registry
from tests.experiments.small_runs import said, small_config

DRAWS = True

PLUGIN = '''
from align import LayerMap
from plugins import hookimpl


class Favourite:
    """Every student layer reads the teacher layer most like it."""

    needs_sample = True

    def __call__(self, num_teacher_layers, num_student_layers, sample):
        assert sample.teacher.shape[0] == num_teacher_layers
        assert sample.student.shape[0] == num_student_layers
        best = sample.cka().argmax(0).tolist()
        return LayerMap(tuple(((layer, 1.0),) for layer in best))


@hookimpl
def layer_maps():
    return {"favourite": Favourite()}
'''


@pytest.fixture(scope="module")
def run(tiny_zoo, tmp_path_factory):
    """One phase by ``cka``, with one map written out, and one by a stranger's map."""
    folder = tmp_path_factory.mktemp("cka")
    plugin = folder / "favourite.py"
    plugin.write_text(PLUGIN)
    stranger = {"layer_mapping_strategy": "favourite"}
    changes = {
        "align": {
            "layer_mapping_strategy": "cka",
            "layer_map": {"qwen-code": [0, 1]},
        },
        "phases": ["dual", "multi_basic"],
        "phase": {"multi_basic": {"align": stranger, "train": {"steps": 1}}},
    }
    config = small_config(folder, tiny_zoo, changes)
    seen = []
    real = teaching.layer_maps

    def spy(phase, registry, student_layers, teachers, samples):
        seen.append(samples)
        return real(phase, registry, student_layers, teachers, samples)

    def similarity_alone(run, folder=None):
        return figures.draw_layer_similarity(run, folder or run.figures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "layer_maps", spy)
        patch.setattr(figures, "draw_run", similarity_alone)
        assert main(["train", str(config), "--plugin", str(plugin)]) == 0
    return folder / "run", seen


@pytest.mark.slow
def test_a_run_by_similarity_draws_what_it_chose(run):
    folder, _ = run
    phase = json.loads((folder / "summary.json").read_text())["phases"][0]
    assert phase["layer_map"]["qwen-code"] == [[[0, 1.0]], [[1, 1.0]]]
    chosen = [feeds[0][0] for feeds in phase["layer_map"]["gpt2-prose"]]
    assert len(chosen) == 2 and chosen[0] < chosen[1]
    picture = folder / "figures" / "layer_similarity_dual.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not (folder / "figures" / "layer_map.png").exists()
    report = (folder / "report.md").read_text()
    assert "figures/layer_similarity_dual.png" in report
    assert "the layers chosen. Here: dual." in report


@pytest.mark.slow
def test_the_map_is_that_of_a_sample_of_all_layers(run):
    folder, seen = run
    phase = json.loads((folder / "summary.json").read_text())["phases"][0]
    (sample,) = seen[0].values()  # of the teacher without a map of its own
    assert sample.n > 30 and bool(torch.isfinite(sample.cka()).all())
    found = json.loads(json.dumps(list(similarity_layer_map(sample.cka()))))
    assert found == phase["layer_map"]["gpt2-prose"]


@pytest.mark.slow
def test_a_stranger_s_map_may_look_at_the_sample_too(run):
    folder, seen = run
    phase = json.loads((folder / "summary.json").read_text())["phases"][1]
    best = seen[1]["gpt2-prose"].cka().argmax(0).tolist()
    assert phase["layer_map"]["gpt2-prose"] == [[[layer, 1.0]] for layer in best]
    assert (folder / "figures" / "layer_similarity_multi_basic.png").exists()
    plugin = str(folder.parent / "favourite.py")
    assert main(["plugins", "check", "favourite", "--plugin", plugin]) == 0


def test_without_a_run_there_is_nothing_to_draw(capsys):
    words = [
        "viz",
        "layers",
        "--strategy",
        "cka",
        "--teacher-layers",
        "6",
        "--student-layers",
        "2",
    ]
    code, message = said([*words, "--out", "never.png"], capsys)
    assert code != 0 and "figures/layer_similarity_PHASE.png" in message


def test_a_layer_that_a_teacher_lacks_is_found_before_the_sample(
    tmp_path, tiny_zoo, capsys
):
    align = {"layer_mapping_strategy": "cka", "layer_map": {"gpt2-prose": [0, 99]}}
    config = small_config(tmp_path, tiny_zoo, {"align": align})
    code, message = said(["train", str(config)], capsys)
    assert code != 0 and "layer map asks for layer 99" in message
    assert not (tmp_path / "run" / "figures").exists()


def test_a_strategy_that_crowds_one_layer_is_warned_of_and_a_written_map_is_not():
    registry = Registry.load(entry_points=False)
    teachers = {n: SimpleNamespace(sizes=SimpleNamespace(layers=6)) for n in ("a", "b")}
    for strategy, count in (("skip", 1), ("ratio", 0), ("cka", 0)):
        align = AlignConfig(
            layer_mapping_strategy=strategy, layer_map={"b": [0] * 15 + [5]}
        )
        phase = SimpleNamespace(name="dual", align=align)
        found = crowded_layers(phase, registry, 16, teachers)
        assert len(found) == count, found
        for part in ("strategy=skip feeds 11 of the student's 16", "layer 0 of", "'a'"):
            assert not found or part in found[0]


def test_importance_refuses_a_teacher_without_a_loss_at_hand_before_any_work():
    registry, sizes = Registry.load(entry_points=False), SimpleNamespace(layers=2)
    stored = SimpleNamespace(sizes=sizes, predicts=True)
    encoder = SimpleNamespace(sizes=sizes, predicts=False, layer_importance=None)
    for teacher, why in ((stored, "is not at hand"), (encoder, "has no next-token")):
        align = AlignConfig(layer_mapping_strategy="importance")
        with pytest.raises(InputError, match=rf"'t', which {why}.*layer_map\.t"):
            check_depth(SimpleNamespace(align=align), registry, 2, {"t": teacher})
        written = SimpleNamespace(align=replace(align, layer_map={"t": [0, 1]}))
        check_depth(written, registry, 2, {"t": teacher})


def test_importance_is_measured_on_the_teacher_s_own_loss(tmp_path, tiny_zoo):
    align = {"layer_mapping_strategy": "importance"}
    changes = {"align": align, "phases": ["dual"]}
    config = small_config(tmp_path, tiny_zoo, changes)
    seen, real = [], teaching.layer_maps

    def spy(phase, registry, student_layers, teachers, samples):
        seen.append(samples)
        return real(phase, registry, student_layers, teachers, samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "layer_maps", spy)
        patch.setattr(figures, "draw_run", lambda run, folder=None: [])
        patch.setattr(alignment, "draw_what_meets", lambda run: None)
        assert main(["train", str(config)]) == 0
    phase = json.loads((tmp_path / "run" / "summary.json").read_text())["phases"][0]
    for name, sample in seen[0].items():
        best = sorted(sample.importance.argsort(descending=True)[:2].tolist())
        assert phase["layer_map"][name] == [[[layer, 1.0]] for layer in best]
        assert bool((sample.importance > 0).all())
