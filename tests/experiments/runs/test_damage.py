"""Nothing that is damaged goes wrong in silence, and what is refused is named."""

import shutil
from functools import partial
from itertools import islice

import pytest

from experiments.bench.faults.bed import Bed
from experiments.bench.faults.subjects import (
    RUN_CLASSES,
    Subject,
    lookers,
    subjects,
)
from experiments.bench.faults.two_ranks import import_all
from experiments.bench.faults.verdicts import WRONG

SHOWN = ("verdict", "harm", "file", "reader", "differs", "said")


def damaged(bed, cases):
    """What became of every reading of so many files, and those that went wrong."""
    rows = []
    for case in islice(bed.cases(seed=0), cases):
        rows += bed.try_case(case)
    wrong = [row for row in rows if row["verdict"] in WRONG]
    return rows, [[row[name] for name in SHOWN] for row in wrong]


@pytest.mark.slow
def test_whoever_looks_at_a_damaged_run_says_so_or_sees_the_same(finished, tmp_path):
    def made(place):
        def copied(place):
            shutil.copytree(finished[0], place / "run")

        readers = lookers(place)[:2]
        return [Subject(name="run", make=copied, classes=RUN_CLASSES, readers=readers)]

    bed = Bed(tmp_path, made)
    rows, wrong = damaged(bed, 9)
    assert not wrong
    assert len({row["kind"] for row in rows}) == 9
    assert {"clear", "harmless"} <= {row["verdict"] for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_damage_to_a_run_or_a_store_goes_wrong_in_silence(tiny_zoo, tmp_path):
    models = tiny_zoo["student"].parent
    import_all(models)
    bed = Bed(tmp_path, partial(subjects, models=models))
    first = islice(bed.cases(seed=0), 200)
    classes = {(case.subject, case.kind) for case in first}
    rows, wrong = damaged(bed, len(classes))  # a file of each; the bench tries many
    assert not wrong
    assert {row["kind"] for row in rows} == {kind for _, kind in classes}
    assert len(rows) > 4 * len(classes) > 80
