import json
import shutil
from dataclasses import replace

import pytest

from align.text.documents import TextSample
from experiments.cli import main
from experiments.config.tree import load_config, save_config
from experiments.record.students import students_of
from experiments.report.measure import measure, measure_run
from experiments.report.status import describe
from experiments.writing.sources import sources_of


@pytest.fixture
def run(tmp_path, tiny_llama):
    """A run with two phases, one baseline, and held-out text of two domains."""
    (tmp_path / "a.txt").write_text("one two three four\n\n" * 40)
    (tmp_path / "b.txt").write_text("def f(x): return x + 1\n\n" * 40)
    texts = f"[prose={tmp_path}/a.txt, code={tmp_path}/b.txt]"
    settings = [
        f"data.train={texts}",
        f"data.eval={texts}",
        "data.max_length=32",
        "data.eval_samples=4",
    ]
    config = load_config(None, settings)
    path = tmp_path / "run"
    save_config(config, path / "config.yaml")
    for place in ("phases/2-routing", "phases/1-dual", "baselines/ce_only/2-routing"):
        shutil.copytree(tiny_llama, path / place / "student")
    (path / "phases" / "3-z_space").mkdir()  # under way: no student yet
    return path


def test_students_are_found_in_the_order_of_their_phases(run):
    assert list(students_of(run)) == ["1-dual", "2-routing", "ce_only/2-routing"]


def test_equal_students_measure_equal_on_every_domain(run):
    results = measure_run(run, progress=False)
    assert list(results) == ["1-dual", "2-routing", "ce_only/2-routing"]
    assert set(results["1-dual"]) == {"prose", "code"}
    assert results["1-dual"] == results["2-routing"]
    # random weights over 257 bytes: about 8 bits a character
    assert all(7 < bits < 10 for bits in results["1-dual"].values())


def test_eval_measures_on_other_text_and_prints_json(run, tmp_path, capsys):
    (tmp_path / "c.txt").write_text("four four four\n\n" * 20)
    data = ["--data", f"other={tmp_path}/c.txt"]
    assert main(["eval", str(run), *data, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["1-dual"]) == ["other"]
    assert main(["eval", str(run), *data]) == 0
    assert "2-routing" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_measured_where_what_it_learned_from_is_gone(run, tmp_path):
    config = load_config(run / "config.yaml")
    learned = [f"prose={tmp_path}/gone.txt"]
    gone = replace(config, data=replace(config.data, train=learned))
    before = measure_run(run, progress=False)
    (run / "config.yaml").unlink()
    save_config(gone, run / "config.yaml")
    assert measure_run(run, progress=False) == before
    other = measure_run(run, [f"other={tmp_path}/b.txt"], progress=False)
    assert set(other["1-dual"]) == {"other"}


@pytest.mark.slow
def test_text_that_a_run_was_not_measured_on_is_told(run, tmp_path, capsys):
    measure_run(run, progress=False)
    assert "measured on" not in capsys.readouterr().err
    (run / "run.json").write_text('{"held_out": "of other text"}')
    measure_run(run, progress=False)
    shown = capsys.readouterr().err
    assert f"warning: the held-out text of prose={tmp_path}/a.txt" in shown
    assert f"is not what {run} was measured on" in shown
    measure_run(run, [f"other={tmp_path}/b.txt"], progress=False)
    assert "measured on" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["train: {steps: many}", "train: [", "run: {name: a\x00}"]
)
def test_a_damaged_config_is_named_by_all_who_read_it(run, text):
    (run / "config.yaml").write_text(text)
    for read in (measure_run, describe, sources_of):
        with pytest.raises(ValueError, match=str(run / "config.yaml")):
            read(run if read is not sources_of else str(run))


def test_a_teacher_that_is_gone_is_named_with_what_to_do(run, tmp_path):
    words = [f"teachers.odd={tmp_path}/odd"]
    config = load_config(run / "config.yaml", words)
    (run / "config.yaml").unlink()
    save_config(config, run / "config.yaml")
    (run / "texts.json").write_text('{"odd": 16}')
    told = r"texts for teacher 'odd', too; .* put it back there, or give .*1-dual"
    with pytest.raises(ValueError, match=told):
        measure_run(run, progress=False)


def test_what_is_no_run_or_has_no_student_is_refused(tmp_path, run):
    with pytest.raises(ValueError, match=r"is no run: it holds no config\.yaml"):
        students_of(tmp_path)
    shutil.rmtree(run / "phases")
    shutil.rmtree(run / "baselines")
    with pytest.raises(ValueError, match="has no finished phase yet"):
        students_of(run)


def test_any_causal_model_is_measured_beside_runs(tmp_path, tiny_zoo, capsys):
    from experiments.assemble.data import Encoder
    from student.evaluate import bits_per_char
    from teacher.capture.kv_capture import KVCapture
    from teacher.loading.models import load_model

    text = "Keys and values travel; names stay at home."
    (tmp_path / "c.txt").write_text(text)
    folder = tiny_zoo["gpt2-prose"]
    words = ["eval", str(folder), "--data", f"news={tmp_path}/c.txt", "--json"]
    assert main(words) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    loaded = load_model(folder)
    whole = [TextSample(text, "news", "whole")]
    encode = Encoder(loaded.tokenizer, None)
    (bits,) = bits_per_char(KVCapture(loaded.model), encode, whole).values()
    assert list(found) == ["news"]
    assert found["news"] == pytest.approx(bits, rel=1e-6)


def test_a_model_is_measured_on_the_very_pieces_of_a_run(run, tmp_path, tiny_llama):
    own = measure_run(run, progress=False)["1-dual"]
    (found,) = measure(str(tiny_llama), progress=False, like=run).values()
    assert found == own  # the run's students are copies of this model
    (tmp_path / "c.txt").write_text("four four four\n\n" * 20)
    data = [f"other={tmp_path}/c.txt"]
    (found,) = measure(str(tiny_llama), data, progress=False, like=run).values()
    assert found == measure_run(run, data, progress=False)["1-dual"]


def test_what_is_measured_needs_text_and_must_predict_the_next_token(
    tmp_path, tiny_zoo
):
    with pytest.raises(ValueError, match=r"is no run's folder.*--data news=news"):
        measure(str(tiny_zoo["student"]))
    with pytest.raises(FileNotFoundError, match=r"^there is no \./nowhere; give a run"):
        measure("./nowhere")
    (tmp_path / "c.txt").write_text("four four four\n\n" * 20)
    with pytest.raises(ValueError, match="predicts no next token"):
        measure(str(tiny_zoo["bert-mixed"]), [str(tmp_path / "c.txt")])
    with pytest.raises(ValueError, match=r"neither a run nor a model.*config\.json"):
        measure(str(tmp_path), [str(tmp_path / "c.txt")])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        measure(str(tmp_path / "gone" / "away"), [str(tmp_path / "c.txt")])
