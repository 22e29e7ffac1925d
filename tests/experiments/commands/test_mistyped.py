import pytest

from experiments.cli import main


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("trian", ["unknown command 'trian'; did you mean 'train'?", "Valid: quick"]),
        (
            "models lst",
            ["unknown command 'lst'; did you mean 'list'?", "mtkd models -"],
        ),
        ("xyzzy", ["unknown command 'xyzzy'. Valid: quickstart, train"]),
        ("train --resme must", ["unknown option '--resme'; did you mean '--resume'?"]),
        ("train --resume mst", ["--resume is 'mst'; did you mean 'must'? Valid: auto"]),
        ("report runs/x --opne", ["did you mean '--open'?", "`mtkd report --help`"]),
        ("report a b", ["mtkd report does not take 'b'"]),
        ("train --sett x", ["unknown option '--sett'; settings are given without"]),
        ("train --epochs 3", ["unknown option '--epochs'", "'train.num_epochs'"]),
        ("train --train.steps=3", ["without dashes, as train.steps=3"]),
        ("train --learning-rate 1e-4", ["without dashes, as train.learning_rate=VAL"]),
        ("report", ["the following arguments are required: run"]),
        ("generate m --max-new-tokens", ["expected one argument"]),
        ("generate m --max-tokens", ["did you mean '--max-new-tokens'? `mtkd gen"]),
    ],
)
def test_a_mistyped_line_is_answered_by_one_that_helps(words, parts, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mtkd: error: ")
    assert all(part in line for part in parts), line
