"""The report says what leaving early saves and costs, and draws it."""

from experiments.record.run_dir import RunDir
from experiments.report.evaluation.exits import curves_of, draw_exits, exit_sections
from experiments.report.gallery import Gallery
from experiments.report.layout.document import Items


def run_with(folder, metrics, alone=None):
    phase = {"name": "single", "bpc": {"all": 2.0}, "metrics": metrics}
    if alone:
        phase |= {"ce_only": {"all": 2.0}, "ce_only_metrics": alone}
    return RunDir(folder, summary={"final_phase": "single", "phases": [phase]})


def test_every_threshold_is_a_sentence_and_a_point_of_the_curve(tmp_path):
    student = {
        "exit_bits_per_char": {"at 0": 3.0, "at 0.5": 2.2, "never": 2.0},
        "exit_layers": {"at 0": 25.0, "at 0.5": 60.0, "never": 100.0},
    }
    run = run_with(tmp_path, student, {"exit_bits_per_char": {}})
    assert curves_of(run) == {
        "student, single": [(25, 3.0, "at 0"), (60, 2.2, "at 0.5"), (100, 2.0, "never")]
    }
    (section,) = exit_sections(run, Gallery(run))
    (items,) = [block for block in section.blocks if isinstance(block, Items)]
    assert items.phrases == [
        "student, single, at 0: 25 % of the layers, 3.000 bits per character, 50.0 % "
        "more than through all (2.000).",
        "student, single, at 0.5: 60 % of the layers, 2.200 bits per character, 10.0 % "
        "more than through all (2.000).",
    ]
    (axes,) = draw_exits(run).axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[25, 3.0], [60, 2.2], [100, 2.0]]


def test_without_heads_there_is_neither(tmp_path):
    run = run_with(tmp_path, {"perplexity": {"all": 8.0}})
    assert exit_sections(run, Gallery(run)) == []
    assert draw_exits(run) is None
