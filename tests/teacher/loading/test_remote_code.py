"""Code that comes with a model: run where it is asked for by name, told, digested."""

import json
import shutil
from hashlib import sha256
from unittest.mock import Mock

import pytest
import torch
import transformers
import yaml

from align.errors import InputError
from align.text.documents import TextSample
from experiments.assemble.fingerprint import code_of_model
from experiments.cli import main
from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config
from experiments.estimate.counted import memory_plan
from experiments.measuring.session import Session, teachers_of
from experiments.publishing.card import Wishes, card_text
from experiments.record.folder_code import check_trusted
from experiments.record.run_dir import read_run
from experiments.sources.making import Making
from teacher import load_model
from teacher.loading.remote_code import code_digest
from tests.experiments.conftest import undrawn
from tests.experiments.small_runs import small_config

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class Config(LlamaConfig):
    model_type = "own"

class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.fixture
def folder(tiny_zoo, tmp_path, monkeypatch):
    """A model of a type that transformers does not know."""
    folder = shutil.copytree(tiny_zoo["student"], tmp_path / "odd")
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    put(folder, auto_map=own, model_type="own")
    (folder / "own.py").write_text(CODE)
    modules = transformers.dynamic_module_utils
    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder


def put(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def teacher(folder, **entry):
    config = load_config({"teachers": {"odd": {"model": str(folder), **entry}}})
    making = Making(
        name="odd",
        entry=config.teachers["odd"],
        device=torch.device("cpu"),
        make_student=None,
        student_tokenizer=None,
    )
    return making.load(str(folder))


def test_a_trusted_teacher_runs_its_code_and_says_so_first(folder, tiny_zoo, capsys):
    with pytest.raises(InputError, match=r"set teachers\.NAME\.trust_remote_code=true"):
        teacher(folder)
    odd = teacher(folder, trust_remote_code=True)
    digest = sha256(CODE.encode()).hexdigest()
    assert (
        f"runs code of {folder}: own.py (SHA-256 {digest})" in capsys.readouterr().err
    )
    ids = torch.arange(9)[None]
    got = odd.capture(ids, ids >= 0, logits=True)
    plain = load_model(tiny_zoo["student"]).model
    with torch.no_grad():
        torch.testing.assert_close(got.logits, plain(ids).logits)


@pytest.mark.slow
def test_what_a_trusted_teacher_needs_is_planned(folder, tiny_zoo, capsys):
    teachers = {"odd": {"model": str(folder), "trust_remote_code": True}}
    given = {"teachers": teachers, "student": {"model": str(tiny_zoo["student"])}}
    given |= {"phases": ["dual"], "phase": {"dual": {"teachers": {"min": 1}}}}
    lines = memory_plan(load_config(given))
    assert "odd" in {line.of for line in lines}
    assert "runs code of" in capsys.readouterr().err
    teachers["odd"]["trust_remote_code"] = False
    with pytest.raises(InputError, match="trust_remote_code=true"):
        memory_plan(load_config(given))


def test_another_code_is_another_teacher(folder):
    before = code_digest(folder)
    assert code_of_model(str(folder)) == before
    (folder / "own.py").write_text(CODE + "# more\n")
    assert code_digest(folder) != before


def test_code_of_a_third_place_is_not_run(folder):
    put(folder, auto_map={"AutoConfig": "other/repo--own.Config"})
    with pytest.raises(InputError, match="names code of 'other/repo', another place"):
        load_model(folder, trust_remote_code=True)


@pytest.mark.parametrize("named", [["other/repo--own.Words", None], "other/repo--x.Y"])
def test_nor_that_of_a_tokenizer_in_the_form_of_earlier_versions(folder, named):
    put(folder, auto_map={"AutoConfig": "own.Config"})
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": named}))
    with pytest.raises(InputError, match="names code of 'other/repo', another place"):
        load_model(folder, trust_remote_code=True)


def test_the_config_of_a_folder_trusts_nobody_by_itself(tmp_path):
    entry = {"model": "org/odd", "trust_remote_code": True}
    config, file = load_config({"teachers": {"odd": entry}}), tmp_path / "config.yaml"
    setting = "teachers.odd.trust_remote_code"
    with pytest.raises(ConfigError, match=f"{file} says {setting}: code that comes"):
        check_trusted(file, config)
    check_trusted(file, config, [f"{setting}=true"])
    learner = load_config({"student": {"model": "org/odd", "trust_remote_code": True}})
    setting = "student.trust_remote_code"
    with pytest.raises(ConfigError, match=f"{file} says {setting}: code that comes"):
        check_trusted(file, learner)
    check_trusted(file, learner, [f"{setting}=true"])
    with pytest.raises(ConfigError, match="a model with code of its own is left as it"):
        load_config({"student": {"trust_remote_code": True, "make": "layers"}})


def test_an_implementation_of_attention_is_chosen_or_refused(tiny_zoo):
    student = tiny_zoo["student"]
    eager = load_model(student, attn_implementation="eager").model
    assert eager.config._attn_implementation == "eager"
    drawn = {"role": "student", "init_seed": 0, "dtype": "float32"}
    fresh = load_model(student, attn_implementation="eager", **drawn).model
    assert fresh.config._attn_implementation == "eager"
    with pytest.raises(InputError, match=r"attn_implementation=flash_attention_3 cann"):
        load_model(student, attn_implementation="flash_attention_3")


def test_a_trusted_teacher_is_measured_where_the_command_says_so(
    folder, tmp_path, capsys
):
    (tmp_path / "metrics.jsonl").touch()
    entry = {"model": str(folder), "trust_remote_code": True}
    learner = {"model": "org/odd", "trust_remote_code": True}
    text = yaml.safe_dump({"teachers": {"odd": entry}, "student": learner})
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"read it, then give --trust odd$"):
        teachers_of(tmp_path)
    with pytest.raises(InputError, match=r"--trust names 'even', .* teachers are odd"):
        teachers_of(tmp_path, ["even"])
    sources = teachers_of(tmp_path, ["odd"])
    session = Session(evaluators=Mock(metrics={}), sources=sources, trusted=["odd"])
    texts = [TextSample(text="A few words.", domain="d", id="1")]
    assert list(session._loaded(texts, progress=False)) == ["odd"]
    assert f"--trust odd: runs code of {folder}: own.py (SHA" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trusted_student_learns_and_leaves_its_code(
    folder, tiny_zoo, tmp_path, capsys
):
    """Told before it runs, asked for again; changed code is not gone on with."""
    changes = {
        "student": {"model": str(folder)},
        "phases": ["dual"],
        "train": {"steps": 1},
    }
    config = str(small_config(tmp_path, tiny_zoo, changes))
    assert main(["train", config]) == 2
    assert "student.trust_remote_code=true where it learns" in capsys.readouterr().err
    trusting = ["train", config, "student.trust_remote_code=true"]
    with undrawn():
        assert main(trusting) == 0
    said = capsys.readouterr().err
    assert (
        said.count(f"student.trust_remote_code: runs code of {folder}: own.py (") == 1
    )
    student = tmp_path / "run" / "student"
    assert (student / "own.py").read_text() == CODE
    assert load_model(student, trust_remote_code=True).model.config.model_type == "own"
    with pytest.raises(InputError, match="is not run"):
        load_model(student)
    card = card_text(read_run(tmp_path / "run"), Wishes(licence="mit"))
    assert "trust_remote_code=True)" in card and "read it first" in card
    # The config of the run's folder trusts nobody by itself, whoever looks at it.
    saved = str(tmp_path / "run" / "config.yaml")
    assert main(["estimate", saved]) == 2
    assert "says student.trust_remote_code" in capsys.readouterr().err
    (folder / "own.py").write_text(CODE + "# more\n")
    assert main(trusting) == 2
    assert "files.student.code: stored" in capsys.readouterr().err
