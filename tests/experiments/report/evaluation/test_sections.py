"""What the report makes of evaluators: what is kept, and which texts lost most."""

import pytest

from experiments.record.run_dir import RunDir
from experiments.report.evaluation.sections import evaluation_sections
from experiments.report.layout.document import Table


def summary_of():
    kinds = {f"en-de, {kind}": 1.0 for kind in ("short", "long", "rare words")}
    student = {
        "bleu": {"en-de": 10.0, "en-fr": 30.0},
        "ter": {"en-de": 80.0, "en-fr": 40.0},
        "bits_by_kind": {"en-de": 1.0, **kinds, "en-de, rare words": 3.0},
        "lost_by_kind": {"en-de": 0.1, "en-de, short": -0.2, "en-de, long": 0.4},
    }
    alone = {"bits_by_kind": {"en-de": 1.1, **kinds, "en-de, rare words": 2.4}}
    teacher = {"bleu": {"en-de": 40.0, "en-fr": 40.0}, "ter": {"en-de": 40.0}}
    return {
        "final_phase": "single",
        "phases": [
            {
                "name": "single",
                "bpc": {"en-de": 1.0, "en-fr": 2.0},
                "metrics": student,
                "ce_only": {"en-de": 1.1},
                "ce_only_metrics": alone,
            }
        ],
        "teachers": {"big": {"bpc": {"en-de": 0.5, "en-fr": 0.5}}},
        "evaluation": {
            "metrics": {
                "bits_per_char": {"unit": "bits/char", "better": "lower"},
                "bleu": {"unit": "", "better": "higher"},
                "ter": {"unit": "", "better": "lower"},
                "bits_by_kind": {"unit": "bits/char", "better": "lower"},
                "lost_by_kind": {"unit": "bits/char", "better": "lower"},
            },
            "teachers": {"models": {"big": teacher}},
        },
    }


@pytest.fixture
def tables(tmp_path):
    (section,) = evaluation_sections(RunDir(tmp_path, summary=summary_of()))
    return {block.title: block for block in section.blocks if isinstance(block, Table)}


def test_what_is_kept_is_told_by_language_pair(tables):
    assert tables["retention, %"].rows == [
        ["bits_per_char", "33.333"],
        ["bits_per_char, en-de", "50.000"],
        ["bits_per_char, en-fr", "25.000"],
        ["bleu", "50.000"],
        ["bleu, en-de", "25.000"],
        ["bleu, en-fr", "75.000"],
        ["ter", "50.000"],  # of the pair that both have
        ["ter, en-de", "50.000"],
    ]


def test_kinds_of_text_that_lost_most_come_first_against_each_baseline(tables):
    rows = tables["where the student lost most against the best teacher"].rows
    assert rows == [
        ["en-de, long", "1.000", "+0.400", "+66.7"],
        ["en-de", "1.000", "+0.100", "+11.1"],
        ["en-de, short", "1.000", "-0.200", "-16.7"],
    ]
    alone = tables["where the student lost most against CE only"].rows
    assert alone[0] == ["en-de, rare words", "3.000", "+0.600", "+25.0"]
    assert alone[-1] == ["en-de", "1.000", "-0.100", "-9.1"]
