"""A damaged line is left out and named; whole ones cost nothing."""

import json

import pytest

from experiments.record.summed_log import SUMS, SummedLog

RECORDS = [{"step": n, "loss": 1.5 * n, "text": f"é{n}"} for n in range(4)]


@pytest.fixture
def log(tmp_path):
    made = SummedLog(tmp_path / "log.jsonl")
    for record in RECORDS:
        made.append(record)
    return made


def sums(log):
    return log.path.with_name(log.path.name + SUMS)


def flip(file, bit, whole=None):
    data = bytearray(file.read_bytes() if whole is None else whole)
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def flips(file):
    """Every bit, flipped in the file while it is given."""
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        flip(file, bit, whole)
        yield bit
    file.write_bytes(whole)


def test_a_log_is_a_json_object_a_line_and_comes_back(log):
    rows = log.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(row) for row in rows] == RECORDS
    assert (log.read().records, log.read().faults) == (RECORDS, [])


def test_every_flipped_bit_of_a_log_is_named_and_no_changed_line_is_given(log):
    for bit in flips(log.path):
        logged = log.read()
        assert str(log.path) in "".join(logged.faults), bit
        assert all(record in RECORDS for record in logged.records), bit
        assert len(logged.records) >= len(RECORDS) - 2, bit  # a newline costs two
    assert log.read().faults == []


def test_no_flipped_bit_of_the_sums_costs_a_line(log):
    for bit in flips(sums(log)):
        assert log.read().records == RECORDS, bit


def test_lines_that_were_cut_off_or_lost_are_missed(log):
    whole = log.path.read_bytes()
    for size in range(len(whole) - 1):
        log.path.write_bytes(whole[:size])
        logged = log.read()
        assert logged.records == RECORDS[: len(logged.records)], size
        assert logged.faults or len(logged.records) == len(RECORDS), size
    log.path.write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
    assert log.read().records == RECORDS[1:]
    assert log.read().faults == [f"{log.path} lacks 1 line that was written"]
    log.path.unlink()
    assert log.read().faults == [f"{log.path} is missing, though it was written"]


def test_an_edited_line_is_left_out_and_the_way_to_keep_it_is_said(log):
    text = log.path.read_text(encoding="utf-8").replace("1.5", "0.1")
    log.path.write_text(text, encoding="utf-8")
    (fault,) = log.read().faults
    assert f"{log.path}: line 2 is not as written" in fault
    assert len(log.read().records) == 3
    assert f"delete {sums(log)}" in fault
    sums(log).unlink()
    assert log.read().records[1]["loss"] == 0.1


def test_a_process_that_died_amid_a_line_loses_no_other(log):
    with log.path.open("a") as file:
        file.write('{"step": 4}\n')  # the line is there, its sum is not
    assert log.read().records == [*RECORDS, {"step": 4}]
    assert log.read().faults == []
    with log.path.open("a") as file:
        file.write('{"step": ')
    assert log.read().faults == [f"{log.path} ends in half a line, which is left out"]
    log.mend()
    log.append({"step": 5})
    assert log.read().records == [*RECORDS, {"step": 4}, {"step": 5}]
    assert log.read().faults == []


def test_mending_takes_out_what_is_damaged_and_what_is_not_wanted(log, capsys):
    flip(log.path, 8 * 3)
    log.mend_aloud()
    assert f"warning: {log.path}: line 1 is not as written" in capsys.readouterr().err
    assert (log.read().records, log.read().faults) == (RECORDS[1:], [])
    log.mend(lambda record: record["step"] < 3)
    assert (log.read().records, log.read().faults) == (RECORDS[1:3], [])


def test_a_log_of_an_earlier_version_goes_on(tmp_path):
    log = SummedLog(tmp_path / "log.jsonl")
    log.path.write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    assert log.read().records == RECORDS
    log.append({"step": 4})
    assert (log.read().records, log.read().faults) == ([*RECORDS, {"step": 4}], [])


def test_what_was_put_back_is_as_it_was(log, tmp_path):
    before = log.content()
    log.append({"step": 4})
    log.put_back(before)
    assert log.content() == before
    log.put_back((None, None))
    assert list(tmp_path.iterdir()) == []
    assert log.read().records == []
