"""What a session says of its processor time."""

from tests.processor_time import LISTED, said


def test_a_short_session_says_its_sum_alone():
    line = "processor time: 12 s, 9 s of them before the first test"
    assert said(12.4, 8.6, {"tests/a.py::b": 3.0}) == [line]


def test_a_long_one_names_its_dearest_tests_dearest_first():
    of_test = {f"tests/a.py::n{number}": float(number) for number in range(20)}
    lines = said(200.0, 9.0, of_test)[1:]
    assert len(lines) == LISTED
    assert lines[0].split() == ["19.0", "s", "tests/a.py::n19"]
    assert lines[-1].split() == ["10.0", "s", "tests/a.py::n10"]
