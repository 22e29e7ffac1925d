"""A build is seen in a log, too."""

from teacher.zoo import shown
from teacher.zoo.shown import Shown


def test_a_log_gets_a_line_when_one_is_due_and_for_every_model_that_is_ready(
    monkeypatch, capsys
):
    now = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    told = Shown(None, lines=True)
    for name in ("gpt2-prose", "student", "t5-mixed"):
        told.add(name, 800)
    told.state("gpt2-prose", "loss 3.210", 120)
    told.state("student", "tokenizer")
    now[0] = 14.0
    told.tick()
    now[0] = 16.0
    told.tick()
    told.tick()
    told.ready("student", "bits per character: prose 2.10")
    assert capsys.readouterr().err.splitlines() == [
        "zoo: 0 of 3 ready, 16 s; gpt2-prose 120/800 loss 3.210; "
        "student 0/800 tokenizer",
        "zoo: student is ready (bits per character: prose 2.10)",
    ]


def test_a_quiet_build_says_nothing(capsys):
    told = Shown(None, lines=False)
    told.add("student", 800)
    told.ready("student", "cached")
    assert capsys.readouterr().err == ""
