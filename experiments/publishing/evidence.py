"""What goes with a student so that others can check what its card says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from align.bounds.yaml_document import read_yaml
from align.errors import InputError
from align.foreign.marker import files_in
from align.support.digest import sha256_of
from align.support.whole_file import write_whole
from experiments.publishing.names import without_places
from experiments.publishing.student import FOLDER as STUDENT
from experiments.record.history import IDENTITY, SETTINGS, read_json
from experiments.record.run_dir import SUMMARY, RunDir
from experiments.record.which_run import CONFIG

FOLDER = "evidence"
_OF_PHASE = (
    *("name", "title", "steps", "teachers", "bpc", "ce_only", "best_single"),
    *("previous", "beats_ce_only", "beats_best_single", "helped", "by", "coverage"),
)
"""Of a phase what is told; samples, which hold words of the texts, are not."""
_OF_RUN = ("name", "seed", "start", "final_phase", "singles", "ledger", "time_s")


def config_of(run: RunDir) -> dict[str, Any]:
    """The run's config.yaml as it lies there.

    Raises:
        InputError: there is none, or it is no mapping.
    """
    path = run.path / CONFIG
    if not path.is_file():
        raise InputError(f"{path} is missing: without it nobody can say what was done")
    config = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no settings by name; put it back from a copy")
    return config


def model_digests(run: RunDir) -> dict[str, dict[str, str]]:
    """Digests of the files that the run read of each model, student and teachers, as
    its phases noted them; later phases count where they differ."""
    digests: dict[str, dict[str, str]] = {}
    for file in sorted((run.path / "phases").glob(f"*{SETTINGS}")):
        digests |= read_json(file).get("files", {})
    return digests


def write_evidence(run: RunDir, folder: Path) -> list[Path]:
    """Write what the run can show.

    ``config.yaml`` has every setting, with places of this machine cut to their last
    part; ``results.json`` the measured numbers; ``digests.json`` the SHA-256 of the
    student's files, of the run's own config and summary, of the texts and of what was
    read of every model (the first 16 digits), and the versions.

    Args:
        run: finished, see :func:`experiments.record.run_dir.read_run`.
        folder: where they go; made if it is not there.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = without_places(config_of(run))
    plain = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    texts = {
        "config.yaml": plain,
        "results.json": _json(results_of(run)),
        "digests.json": _json(_digests(run)),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def results_of(run: RunDir) -> dict[str, Any]:
    """The measured numbers of a run's summary, with no word of its texts."""
    summary = run.summary
    phases = [
        {key: entry[key] for key in _OF_PHASE if key in entry}
        for entry in summary.get("phases", [])
    ]
    teachers = {
        name: {k: without_places(v) for k, v in facts.items() if k != "reading"}
        for name, facts in (summary.get("teachers") or {}).items()
    }
    whole = {key: summary[key] for key in _OF_RUN if key in summary}
    return whole | {"teachers": teachers, "phases": phases}


def _digests(run: RunDir) -> dict[str, Any]:
    identity = read_json(run.path / IDENTITY)
    last = sorted((run.path / "phases").glob(f"*{SETTINGS}"))[-1:]
    texts: Mapping[str, Any] = read_json(last[0]).get("texts", {}) if last else {}
    return {
        "student": {
            name: sha256_of(file) for name, file in files_in(run.path / STUDENT).items()
        },
        "run": {
            name: sha256_of(run.path / name)
            for name in (CONFIG, SUMMARY)
            if (run.path / name).is_file()
        },
        "texts": {**texts, "held_out": identity.get("held_out")},
        "models": model_digests(run),
        "versions": run.summary.get("versions") or identity.get("versions"),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
