import json

import pytest

from experiments.cli import main
from experiments.writing.corpus import Outcome, facts_of


@pytest.fixture
def config(tiny_zoo, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        json.dumps(
            {
                "student": {"model": str(tiny_zoo["student"])},
                "teachers": {"prose": {"model": str(tiny_zoo["gpt2-prose"])}},
                "data": {"train": ["zoo"]},
            }
        )
    )
    return str(path)


def test_a_teacher_goes_on_from_the_texts_of_a_config(config, tmp_path, capsys):
    out = tmp_path / "w.jsonl"
    words = ["write", config, "--by", "prose", "--out", str(out), "--number", "3"]
    words += ["--max-new-tokens", "4", "--writer", "{use: sample, texts: 2}"]
    assert main(words) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert 3 <= len(rows) <= 6 and {row["by"] for row in rows} == {"prose"}
    assert f"data.train='[w={out}]'" in capsys.readouterr().out
    plan = json.loads(facts_of(out).read_text())["plan"]
    assert plan["writer"] == {"use": "sample", "texts": 2} and plan["openings"] == 3
    before = out.read_bytes()
    assert main(words) == 0
    assert "parts written: 0, there already: 1" in capsys.readouterr().out
    assert main([*words, "--seed", "1"]) == 2
    assert "seed was 0 and is 1; give another --out" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "pros", "--out", "x.jsonl"], "did you mean 'prose'"),
        (["--by", "pro-se", "--out", "x.jsonl"], "did you mean 'prose'"),
        (["--by", "prose", "--out", "x.txt"], "ends in .jsonl"),
        (["--by", "prose", "--out", "."], "ends in .jsonl"),
        (["--by", "prose", "--out", "x.jsonl", "--shard", "3/2"], "1/8 to 8/8"),
        (
            ["--by", "prose", "--out", "x.jsonl", "--writer", "{use: beam, b: 1}"],
            "--writer.b",
        ),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    config, words, said, capsys, monkeypatch
):
    def loaded(*args):
        raise AssertionError("loaded")

    monkeypatch.setattr("experiments.writing.sources.load_writer", loaded)
    assert main(["write", config, *words]) == 2
    assert said in capsys.readouterr().err


def test_a_file_without_any_text_is_an_error(config, tmp_path, capsys, monkeypatch):
    counts = {"rows": 0, "twice": 0, "empty": 3, "skipped": 0}
    monkeypatch.setattr(
        "experiments.writing.corpus.write_corpus",
        lambda *args: Outcome(made=1, counts=counts),
    )
    out = tmp_path / "w.jsonl"
    words = ["--by", "prose", "--out", str(out), "--number", "3"]
    assert main(["write", config, *words]) == 2
    shown = capsys.readouterr()
    assert "3 texts were empty" in shown.err and "holds no text" in shown.err
    assert "train with" not in shown.out
