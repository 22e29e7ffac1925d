from pathlib import Path

from experiments.record.run_dir import RunDir
from experiments.report.arms import arm_table
from experiments.report.page import report_text

SUMMARY = {
    "start": {"code": 4.0, "prose": 5.0},
    "phases": [
        {
            "name": "real_multi",
            "teachers": ["big", "encoder"],
            "bpc": {"code": 1.8, "prose": 2.0},
            "ce_only": {"code": 2.0, "prose": 2.0},
        }
    ],
    "final_phase": "real_multi",
    "singles": {
        "big": [{"code": 1.9, "prose": 2.0}],
        "encoder": [{"code": 2.0, "prose": 2.1}],
    },
    "teachers": {
        "big": {"model": "b", "bpc": {"code": 1.0, "prose": 1.5}},
        "encoder": {"model": "e"},
    },
}


def test_every_student_stands_beside_the_teachers_themselves():
    heads, rows = arm_table(RunDir(Path("run"), summary=SUMMARY))
    assert heads == ["after real_multi", "code", "prose", "mean", "vs CE only"]
    assert rows == [
        ["untrained", "4.000", "5.000", "4.500", "+125.0%"],
        ["CE only", "2.000", "2.000", "2.000", "–"],
        ["big alone", "1.900", "2.000", "1.950", "-2.5%"],
        ["encoder alone", "2.000", "2.100", "2.050", "+2.5%"],
        ["taught by big, encoder", "1.800", "2.000", "1.900", "-5.0%"],
        ["big itself", "1.000", "1.500", "1.250", "-37.5%"],
    ]


def test_a_run_without_baselines_has_no_such_table(made_up):
    assert arm_table(RunDir(Path("run"), summary={})) == ([], [])
    bare = SUMMARY | {"singles": {}}
    bare["phases"] = [SUMMARY["phases"][0] | {"ce_only": None}]
    assert arm_table(RunDir(Path("run"), summary=bare)) == ([], [])


def test_the_report_holds_that_table(made_up):
    heads, rows = arm_table(made_up)
    text = report_text(made_up)
    assert rows and all(f"| {' | '.join(row)} |" in text for row in rows)
    assert f"| {' | '.join(heads)} |" in text
