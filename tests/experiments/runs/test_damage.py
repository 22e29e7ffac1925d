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


def damaged(bed, cases, readers=lambda case: None):
    """What became of every reading of so many files, and those that went wrong."""
    rows = []
    for case in islice(bed.cases(seed=0), cases):
        rows += bed.try_case(case, readers(case))
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
    """A file of each class, by each reader; the bench tries many.

    Those who only look at a run read a class that both runs have in one of them.
    """
    models = tiny_zoo["student"].parent
    import_all(models)
    bed = Bed(tmp_path, partial(subjects, models=models))
    first = islice(bed.cases(seed=0), 200)
    classes = {(case.subject, case.kind) for case in first}
    names = {each.name: [r.name for r in each.readers] for each in bed.subjects}
    train, *lookers = names["whole run"]

    def readers(case):
        if not {("killed run", case.kind), ("whole run", case.kind)} <= classes:
            return None
        turn = [*RUN_CLASSES].index(case.kind) + (case.subject == "whole run")
        return {train, *lookers[turn % 2 :: 2]}

    rows, wrong = damaged(bed, len(classes), readers)
    assert not wrong
    assert {(row["subject"], row["kind"]) for row in rows} == classes
    pairs = {(row["kind"], row["reader"]) for row in rows}
    assert pairs == {(kind, name) for each, kind in classes for name in names[each]}
    assert len(pairs) > 4 * len({kind for _, kind in classes}) > 80
