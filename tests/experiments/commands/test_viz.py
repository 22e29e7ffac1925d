import json

import pytest

from experiments.cli import main
from experiments.commands.viz import load_tokenizer, num_layers
from tests.small_tokenizers import small


@pytest.mark.slow
def test_viz_commands_write_their_pictures(
    tmp_path, tiny_llama, words_tokenizer, made_up, capsys
):
    out = tmp_path / "out"
    pair = ["--student", str(tiny_llama), "--teacher", str(words_tokenizer)]
    alignment = [*pair, "--text", "one three", "--out", str(out / "a.png")]
    assert main(["viz", "alignment", *alignment]) == 0
    depths = ["--teacher-layers", "24,32", "--student-layers", "12"]
    assert main(["viz", "layers", *depths, "--out", str(out / "l.png")]) == 0
    models = [f"student.model={tiny_llama}", f"teachers=[{tiny_llama}]"]
    assert main(["viz", "layers", *models, "--out", str(out / "m.png")]) == 0
    assert main(["viz", "routing", str(made_up.path), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "a.png",
        "l.png",
        "m.png",
        "routing_domains.png",
        "routing_layers.png",
    ]
    assert capsys.readouterr().out.count("wrote ") == 5


def test_layers_come_from_the_models_own_config(tiny_llama, tmp_path):
    assert num_layers(str(tiny_llama)) == 2
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        num_layers(str(tmp_path))


def test_custom_code_is_neither_run_nor_asked_about(tmp_path, monkeypatch):
    def ask(*_):
        raise AssertionError("asked a question")

    monkeypatch.setattr("builtins.input", ask)
    small("bytes").save_pretrained(tmp_path)
    (tmp_path / "custom.py").write_text("raise SystemExit('ran')")
    there = tmp_path / "config.json"
    there.write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "custom.C"}}')
    file = tmp_path / "tokenizer_config.json"
    custom = {"auto_map": {"AutoTokenizer": ["custom.T", None]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | custom))
    assert (
        load_tokenizer(str(tmp_path))("a b")["input_ids"]
        == small("bytes")("a b")["input_ids"]
    )
    with pytest.raises(ValueError, match="needs Python code of its own"):
        num_layers(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["layers"], "give a config, or both --teacher-layers"),
        (["layers", "quickstart", "--teacher-layers", "2"], "and so does 'quickstart'"),
        (["layers", "--teacher-layers", "x", "--student-layers", "2"], "is 'x'"),
        (["routing", "nowhere"], "run folder nowhere does not exist"),
        (
            ["alignment", "--student", "./none", "--teacher", "x", "--text", "a"],
            "no tokenizer for './none'",
        ),
    ],
)
def test_wrong_input_is_one_clear_line(words, message, capsys):
    assert main(["viz", *words]) == 2
    assert message in capsys.readouterr().err
