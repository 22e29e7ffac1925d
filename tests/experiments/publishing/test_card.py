"""What a card says, read back by the hub's own reader."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from align.errors import InputError
from align.foreign.marker import MARKER
from experiments.cli import main
from experiments.publishing.card import Wishes, card_text, write_card
from experiments.record.run_dir import read_run
from student.checkpoint import mark_complete
from tests.experiments.publishing.conftest import SECRET


@pytest.fixture(scope="module")
def card(finished):
    return card_text(finished, Wishes(title="me/tiny", languages=["en", "de"]))


def test_the_hub_reads_its_metadata(card):
    data = ModelCard(card).data
    assert (data.license, data.language) == ("apache-2.0", ["en", "de"])
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert {"knowledge-distillation", "mtkd"} <= set(data.tags)
    assert data.base_model is None, "a folder of this machine is no model of the hub"
    results = {r.dataset_name: r.metric_value for r in data.eval_results}
    assert results == {"held-out prose": 2.84, "held-out code": 2.6}


def test_an_encoder_decoder_makes_text_of_text(finished, monkeypatch):
    name = "experiments.publishing.card.auto_class"
    monkeypatch.setattr(name, lambda folder: "AutoModelForSeq2SeqLM")
    text = card_text(finished, Wishes())
    data = ModelCard(text).data
    assert data.pipeline_tag == "text2text-generation"
    assert {r.task_type for r in data.eval_results} == {data.pipeline_tag}
    assert "AutoModelForSeq2SeqLM.from_pretrained(" in text


def test_it_says_who_taught_and_what_did_not_help(card):
    assert "taught by" in card
    assert "these did not: real_multi, z_space" in card
    assert "**z_space** did not help" in card
    row = next(line for line in card.splitlines() if line.startswith("| strict"))
    assert [c.strip() for c in row.strip("|").split("|")][:5] == [
        "strict",
        "strict",
        "encoder",
        "–",
        "Toy terms",
    ]
    assert "It learned from strict (Toy terms), whose terms bind" in card
    assert "One run, of seed 3" in card
    assert 'from_pretrained("me/tiny")' in card or "from_pretrained('me/tiny')" in card


def test_size_is_that_of_the_weights_as_saved(card, tiny_llama):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    many = sum(p.numel() for p in model.parameters())
    assert f"A llama of {many:,} weights (2 layers, 32 wide, 257 tokens)" in card


def test_nothing_tells_of_this_machine_or_of_the_texts(finished, tmp_path):
    files = write_card(finished, tmp_path / "card", Wishes())
    names = [file.relative_to(tmp_path / "card").as_posix() for file in files]
    assert names == [
        "README.md",
        *(f"evidence/{n}" for n in ("config.yaml", "results.json", "digests.json")),
    ]
    for file in files:
        text = file.read_text()
        for hidden in ("home-of-somebody", str(tmp_path), "10.0.0.7", SECRET):
            assert hidden not in text, (file.name, hidden)


def test_its_words_are_no_markup(finished):
    summary = json.loads(json.dumps(finished.summary))
    summary["teachers"]["<img src=x>"] = summary["teachers"].pop("gpt2-prose")
    text = card_text(replace(finished, summary=summary), Wishes(title="<b>|x</b>"))
    assert text.count("<img") == text.count("\\<img") > 0
    assert "# \\<b>" in text


def test_a_run_without_a_student_is_told_how_to_go_on(made_up, tmp_path, capsys):
    with pytest.raises(InputError, match=r"holds no student yet: `mtkd status"):
        card_text(made_up, Wishes())
    assert main(["card", str(made_up.path)]) == 2
    assert "mtkd train" in capsys.readouterr().err


def test_the_command_writes_into_the_run(finished, capsys):
    assert main(["card", str(finished.path), "--licence", "MIT"]) == 0
    written = capsys.readouterr().out.split()
    assert written[0] == str(finished.path / "card" / "README.md")
    assert ModelCard.load(written[0]).data.license == "mit"


def test_a_card_does_not_go_where_files_are_vouched_for(finished, capsys):
    inside = finished.path / "student" / "card"
    for folder in (inside, inside.parent):
        assert main(["card", str(finished.path), "--out", str(folder)]) == 2
        assert "give another folder" in capsys.readouterr().err
    assert not inside.exists()
    card_text(finished, Wishes())


def test_a_student_without_its_marker_is_not_told_of(finished, tmp_path):
    run = read_run(shutil.copytree(finished.path, tmp_path / "run"))
    (run.path / "student" / MARKER).unlink()
    with pytest.raises(InputError, match=r"student has no complete\.json"):
        card_text(run, Wishes())


def test_pairs_are_named_and_side_files_are_no_weights(finished, tmp_path, tiny_llama):
    run = read_run(shutil.copytree(finished.path, tmp_path / "run"))
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    pair = {"source": "/home/jo/a.en", "target": "/home/jo/a.de"}
    config["data"] = {"train": [], "pairs": {"en-de": pair}}
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    student = run.path / "student"
    (student / MARKER).unlink()
    shutil.copy(student / "model.safetensors", student / "exits.safetensors")
    mark_complete(student, {})
    text = card_text(run, Wishes())
    assert "pairs of en-de: a.en, a.de" in text
    assert text.splitlines()[-1:] and "/home/jo" not in text
    first = card_text(finished, Wishes())
    many = next(line for line in first.splitlines() if line.startswith("A llama of"))
    assert many in text
