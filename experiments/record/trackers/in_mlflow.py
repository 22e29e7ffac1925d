"""What mlflow is told beside accelerate's part: where it writes, which run it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ADDRESS = "MLFLOW_TRACKING_URI"
_RUN = "mtkd.run"
"""The tag by which a run that goes on is found again."""


def settings_of(project: str, name: str, run_id: str, folder: Path) -> dict[str, Any]:
    """What accelerate's tracker is made with.

    Where no server is named, mlflow writes into the run's folder, and not beside
    wherever the command was started.

    Args:
        project: the group of runs.
        name: of the run.
        run_id: of the run, as its folder says it.
        folder: for files.
    """
    import mlflow

    settings: dict[str, Any] = {"experiment_name": project, "run_name": name}
    if not os.environ.get(ADDRESS):
        mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
        settings["logging_dir"] = (folder / "mlflow").absolute().as_uri()
    known: Any = mlflow.search_runs(
        experiment_names=[project],
        filter_string=f"tags.`{_RUN}` = '{run_id}'",
        output_format="list",
        max_results=1,
    )
    if known:
        return settings | {"run_id": known[0].info.run_id}
    return settings | {"tags": {_RUN: run_id}}


def keep_texts(values: Mapping[str, Any], step: int) -> None:
    """Give the run texts as files: its metrics are numbers alone."""
    import mlflow

    for name, value in values.items():
        if isinstance(value, str):
            mlflow.log_text(value, f"{name}/{step}.txt")


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """What are metrics to it."""
    return {name: value for name, value in values.items() if not isinstance(value, str)}
