"""What decides whether a phase helped is what the user chose."""

from experiments.record.run_dir import RunDir
from experiments.report.layout.document import plain
from experiments.report.verdicts import sentences, table_rows, verdicts


def run_by(folder, by, helped):
    phase = {
        "name": "single",
        "bpc": {"all": 2.0},
        "ce_only": {"all": 2.5},
        "helped": helped,
        "by": by,
    }
    return RunDir(folder, summary={"phases": [phase]})


def test_a_phase_of_fewer_bits_did_not_help_where_chrf_decides(tmp_path):
    by = {"metric": "chrf", "better": "higher", "value": 15.0, "ce_only": 16.0}
    by |= {"best_single": 14.0, "single_teacher": "b"}
    results = verdicts(run_by(tmp_path, by, helped=False))
    heads, rows = table_rows(results)
    assert (heads[-1], plain(rows[0][-1])) == ("helped by chrf", "no")
    (said,) = sentences(results)
    assert plain(said) == (
        "single did not help by chrf 15.000 against 16.000 of CE only and 14.000 of b "
        "alone, higher is better; 2.000 bits per character, 0.500 less than CE only "
        "(2.500)."
    )


def test_where_it_was_not_measured_nothing_is_said_to_have_helped(tmp_path):
    by = {"metric": "chrf", "better": "higher", "value": None, "ce_only": None}
    results = verdicts(run_by(tmp_path, by | {"best_single": None}, helped=None))
    assert results[0].outcome == "–"
    (said,) = sentences(results)
    assert "has no baseline to compare with by chrf: 2.000" in plain(said)
