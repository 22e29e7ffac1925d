"""``mtkd make``: the folder that it writes, and what it refuses."""

import json

import pytest
import torch

from experiments.cli import main
from teacher.loading.models import load_model
from teacher.packages.manifest import changed_files, read_manifest


@pytest.fixture(scope="module")
def source(tiny_zoo):
    """The folder of a model of two layers."""
    return str(tiny_zoo["qwen-code"])


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    """A student of one layer, and what the command said."""
    out = tmp_path_factory.mktemp("made") / "small"
    assert (
        main(["make", source, "--layers", "1", "--rule", "first", f"--out={out}"]) == 0
    )
    return out


def test_the_student_loads_as_any_model_and_says_what_the_source_says_without_the_rest(
    made, source
):
    whole, student = load_model(source), load_model(made)
    ids = torch.tensor([student.tokenizer("def f(x):\n    return x").input_ids])
    stack = whole.model.model.layers
    for layer in stack[1:]:
        layer.register_forward_hook(lambda _, args, out: args[0])
    with torch.no_grad():
        assert torch.equal(student.model(ids).logits, whole.model(ids).logits)
    assert student.tokenizer.get_vocab() == whole.tokenizer.get_vocab()


def test_the_manifest_says_what_it_was_made_of(made, source):
    manifest = read_manifest(made)
    assert manifest.source == source and manifest.source_sha256
    assert manifest.making.layers == [0]
    assert manifest.making.use == "layers"
    assert manifest.making.parameters < manifest.making.parameters_of_source
    assert not changed_files(made, manifest.files, whole=True)
    config = json.loads((made / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    assert (made / "generation_config.json").is_file()


def test_what_a_licence_forbids_it_forbids_of_the_student(made, tmp_path, capsys):
    folder = tmp_path / "terms"
    folder.mkdir()
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    note = folder / "mtkd-model.json"
    terms = {"licence": "Strict Terms", "redistributable": False}
    note.write_text(json.dumps(json.loads(note.read_text()) | terms))
    (folder / "LICENSE.model").write_text("the terms")
    out = tmp_path / "again"
    assert main(["make", str(folder), "--layers", "1", "--out", str(out)]) == 0
    manifest = read_manifest(out)
    assert manifest.redistributable is False and manifest.licence == "Strict Terms"
    assert (out / "LICENSE.model").read_text() == "the terms"
    assert "forbids handing them on" in (out / "NOTICE").read_text()
    assert "Strict Terms forbids handing it on" in capsys.readouterr().out


def test_a_rule_of_a_sample_reads_the_text_that_is_given(source, tmp_path):
    text = tmp_path / "code.txt"
    text.write_text("def f(x):\n    return x + 1\n\n" * 30)
    out = tmp_path / "small"
    words = ["make", source, "--layers", "1", "--rule", "density"]
    assert main([*words, "--data", str(text), "--out", str(out)]) == 0
    assert "kept by density" in read_manifest(out).conversion


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--layers", "9"], "keep is 9, but"),
        (["--layers", "0,0"], "give numbers of layers from 0 on"),
        (["--layers", "0,1", "--rule", "search"], "leave rule out, or give a number"),
        (
            ["--layers", "1", "--data", "x.txt"],
            "--data changes nothing: what --layers",
        ),
        (
            ["--layers", "1", "--use", "{use: layers, keep: 2}"],
            "--layers and the keep of --use say the same",
        ),
        (["--layers", "half"], "give how many layers are kept"),
        (["--use", "layer"], "did you mean 'layers'"),
        (["--use", "{use: layers, keeps: 1}"], "make.keeps"),
        (["--use", "other", "--layers", "1"], "--layers and --rule are of the maker"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(words, told, source, tmp_path, capsys):
    out = tmp_path / "small"
    assert main(["make", source, *words, "--out", str(out)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in said
    assert not out.exists()


def test_a_folder_that_is_there_is_not_replaced(made, source, capsys):
    before = (made / "mtkd-model.json").read_bytes()
    assert main(["make", source, "--out", str(made)]) == 2
    assert "is there already; give another folder" in capsys.readouterr().err
    assert (made / "mtkd-model.json").read_bytes() == before


def test_an_encoder_is_refused_by_name(tiny_zoo, tmp_path, capsys):
    out = tmp_path / "small"
    assert main(["make", str(tiny_zoo["bert-mixed"]), "--out", str(out)]) == 2
    assert "is an encoder; students are made" in capsys.readouterr().err
