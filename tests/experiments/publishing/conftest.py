"""A finished run with a student and a config that names places of this machine."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from align.support.whole_file import write_whole
from experiments.record.run_dir import RunDir, read_run
from student.checkpoint import mark_complete
from teacher.packages.manifest import LICENCE, write_manifest
from tests.experiments.synthetic import summary, write_run

SECRET = "words-of-a-private-text"


def model(folder: Path, licence: str, redistributable: bool) -> Path:
    """A model's folder with a manifest."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / LICENCE).write_text("Terms.\n")
    write_manifest(
        folder,
        title="Toy",
        source="toy",
        licence=licence,
        redistributable=redistributable,
        conversion="none",
    )
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_llama) -> RunDir:
    """Its student began as a model of a free licence; ``strict`` taught it, too."""
    place = tmp_path_factory.mktemp("home-of-somebody")
    path = write_run(place / "run")
    began = model(place / "models" / "base", "Apache-2.0", True)
    strict = model(place / "models" / "strict", "Toy terms", False)
    facts = summary() | {"seed": 3, "final_phase": "z_space"}
    facts["samples"] = [{"prompt": SECRET, "before": "", "after": ""}]
    facts["teachers"]["strict"] = {
        "model": str(strict),
        "kind": "encoder",
        "reading": {"lost": SECRET},
    }
    (path / "summary.json").write_text(json.dumps(facts))
    config = {
        "run": {"name": "made-up", "dir": str(place)},
        "student": {"model": str(began), "init": "checkpoint", "tokenizer": None},
        "teachers": {
            "gpt2-prose": {"model": "zoo:gpt2-prose"},
            "served": {"model": "server:http://10.0.0.7:8000/v1"},
            "strict": {"model": str(strict)},
        },
        "data": {
            "train": [f"prose={place}/books.jsonl", "org/set"],
            "eval": [str(place / "held.txt")],
            "max_length": 64,
        },
    }
    write_whole(path / "config.yaml", yaml.safe_dump(config))
    shutil.copytree(tiny_llama, path / "student")
    mark_complete(path / "student", {})
    return read_run(path)
