"""Numbers of models, a few beside each other and many below each other."""

from experiments.evaluators.asked import Measurements
from experiments.report.evaluation.tables import notes_of, tables_of
from student.evaluators import Metric

BITS = Metric("b", "lower")


def test_a_few_models_stand_side_by_side():
    measurements = Measurements(metrics={"bits": BITS, "n": Metric("", "higher")})
    measurements.models = {
        "one": {"bits": {"a": 1.0}, "n": {"all": 12345.0}},
        "two": {},
    }
    (table,) = tables_of(measurements)
    assert table.heads == ["metric", "part", "unit", "one", "two"]
    assert table.rows == [
        ["bits ↓", "a", "b", "1.000", "–"],
        ["n ↑", "", "", "12,345", "–"],
    ]


def test_many_models_have_a_row_each_and_domains_stay_whole():
    kinds = [
        f"{d}{k}" for d in ("de", "fr") for k in ("", *(f", {i}" for i in range(5)))
    ]
    measurements = Measurements(
        metrics={
            "bits": BITS,
            "size": Metric("MiB", "lower"),
            "n": Metric("", "neither"),
        }
    )
    for place in range(6):
        measurements.models[str(place)] = {
            "bits": {kind: float(place) for kind in kinds},
            "size": {"all": 2.0},
            "n": {"all": 3.0},
        }
    measurements.models["5"] = {"size": {"all": 2.0}}
    whole, german, french = tables_of(measurements)
    assert whole.heads == ["model", "size ↓, MiB", "n"]
    assert whole.rows[-1] == ["5", "2.000", "–"]
    assert german.title == french.title == "bits ↓, b"
    assert german.heads == ["model", *kinds[:6]]
    assert french.heads == ["model", *kinds[6:]]
    assert [row[0] for row in french.rows] == ["0", "1", "2", "3", "4"]


def test_a_domain_of_many_kinds_is_cut_where_it_must_be():
    measurements = Measurements(metrics={"bits": BITS})
    parts = {f"de, {place}": 1.0 for place in range(11)} | {"fr": 1.0}
    measurements.models = {str(place): {"bits": parts} for place in range(5)}
    widths = [len(table.heads) - 1 for table in tables_of(measurements)]
    assert widths == [8, 4]


def test_the_same_note_on_several_models_is_one_sentence():
    measurements = Measurements(metrics={})
    measurements.models = {"a": {}, "b": {}, "a: c": {}}
    measurements.notes = ["a: too long", "no text", "b: too long", "other: too long"]
    assert notes_of(measurements) == ["a, b: too long", "no text", "other: too long"]
