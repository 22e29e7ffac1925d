"""What is held out of the training text, by what its texts are."""

import json

import pytest

from align.errors import InputError
from align.text.fragment import ends
from experiments.assemble.data import Encoder, load_data
from experiments.config.tree import load_config
from experiments.extraction.corpus import plan_corpus
from tests.small_tokenizers import small

ENCODE = Encoder(small("bytes"), 16, True)


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def words(number, long=4):
    return f"Text {number}: " + f"the outcome of {number} tells. " * long


def loaded(train, seed=0, encode=ENCODE, **changes):
    """The data of a run, which a store reads alike."""
    config = load_config({"data": {"train": train, "max_length": 16} | changes}).data
    data = load_data(config, encode, seed)
    corpus = plan_corpus(config, encode, seed=seed, calibration=16)
    assert {s.id for s in corpus.stream()} == {s.id for s in data.train}
    return data


def documents(samples):
    return {sample.id.partition("#")[0] for sample in samples}


def test_pieces_of_a_document_are_on_one_side(tmp_path):
    path = write(tmp_path / "a.jsonl", [words(i) for i in range(40)])
    data = loaded([path])
    assert len(data.train) > len(documents(data.train))
    assert not documents(data.train) & documents(data.eval)
    assert len(documents(data.eval)) == 4  # a tenth
    assert not data.warnings


def test_another_seed_holds_out_other_documents(tmp_path):
    path = write(tmp_path / "a.jsonl", [words(i) for i in range(40)])
    assert documents(loaded([path], 1).eval) != documents(loaded([path], 2).eval)


def test_texts_that_stand_three_times_are_on_one_side(tmp_path):
    path = write(tmp_path / "a.jsonl", [words(i) for i in range(30)] * 3)
    for overlap in ("drop", "keep"):
        data = loaded([path], overlap=overlap, eval_samples=None)
        held = documents(data.eval)
        assert len(held) == 9  # a tenth, and one of three is measured on
        numbers = {(int(name.rpartition(":")[2]) - 1) % 30 for name in held}
        assert len(numbers) == 9
        learnt = {
            (int(name.rpartition(":")[2]) - 1) % 30 for name in documents(data.train)
        }
        assert learnt == set(range(30)) - numbers
    (warning,) = loaded([path]).warnings
    assert "samples of data.train are held out, too" in warning
    with pytest.raises(InputError, match=r"data\.overlap is refuse"):
        loaded([path], overlap="refuse")


def test_training_text_that_is_held_out_is_dropped_and_counted(tmp_path):
    train = write(tmp_path / "a.jsonl", [words(i) for i in range(20)])
    held = write(tmp_path / "b.jsonl", [words(i) for i in range(15, 25)])
    data = loaded([train], eval=[held])
    assert documents(data.train) == {f"a.jsonl:{i}" for i in range(1, 16)}
    pieces = sum(1 for s in loaded([train], eval=[held], overlap="keep").train)
    dropped = pieces - len(data.train)
    assert data.warnings == (
        f"{dropped} of {pieces} samples of data.train are held out, too, character by "
        "character: they are left out (data.overlap=drop)",
    )


def test_a_piece_that_is_held_out_elsewhere_is_dropped_alone(tmp_path):
    common = "The licence of this text is known. "
    train = write(tmp_path / "a.jsonl", [common * 8 + words(i) for i in range(5)])
    held = write(tmp_path / "b.jsonl", [common * 8 + words(77)])
    data = loaded([train], eval=[held])
    kept = loaded([train], eval=[held], overlap="keep")
    assert documents(data.train) == documents(kept.train)
    assert len(data.train) < len(kept.train)
    held_texts = {sample.text for sample in data.eval}
    assert not held_texts & {sample.text for sample in data.train}
    assert held_texts & {sample.text for sample in kept.train}


def test_one_file_for_both_is_refused_by_name(tmp_path):
    path = write(tmp_path / "a.jsonl", [words(i) for i in range(20)])
    with pytest.raises(InputError, match="leaves nothing to learn from") as error:
        loaded([path], eval=[path])
    assert f"data.train and data.eval both name {path}" in str(error.value)


def test_of_a_single_document_the_end_is_held_out_and_that_is_said(tmp_path):
    text = " ".join(words(i) for i in range(12))
    data = loaded([write(tmp_path / "a.jsonl", [text])], eval_share=0.25)
    order = [int(s.id.partition("#")[2]) for s in data.train]
    assert max(order) < min(int(s.id.partition("#")[2]) for s in data.eval)
    assert sum("is one document, so its end is held out" in n for n in data.notes) == 1
    assert sum(ends(s.text) for s in (*data.train, *data.eval)) == 1


def test_weights_of_texts_are_told(tmp_path):
    rows = [{"text": words(i), "weight": 1 + i % 2} for i in range(20)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (note,) = (n for n in loaded([str(path)]).notes if "weight_field" in n)
    assert "from 1 to 2; set data.weight_field=null" in note
    assert not any("weight" in n for n in loaded([str(path)], weight_field=None).notes)


def test_what_is_cut_is_told_and_is_the_same_whatever_is_learned_of_ends(tmp_path):
    path = write(tmp_path / "a.jsonl", [words(i, i % 5) for i in range(40)])
    data = loaded([path])
    assert any("were cut into" in note for note in data.notes)
    other = loaded([path], encode=Encoder(small("bytes"), 16, False))
    assert [s.text for s in other.train] == [s.text for s in data.train]
    whole = {words(i, i % 5) for i in range(40)}
    found = {}
    for sample in sorted(
        (*data.train, *data.eval), key=lambda s: int(s.id.partition("#")[2] or 0)
    ):
        name = sample.id.partition("#")[0]
        found[name] = found.get(name, "") + sample.text
    assert set(found.values()) == whole


def test_a_student_without_an_end_is_told(tmp_path):
    path = write(tmp_path / "a.jsonl", [words(i) for i in range(20)])
    data = loaded([path], encode=Encoder(small("words"), 16, True))
    assert any("has no end-of-text token" in text for text in data.warnings)
    assert not loaded([path], encode=Encoder(small("words"), 16, False)).warnings
