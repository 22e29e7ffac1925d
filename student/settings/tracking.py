"""Trackers by the names that accelerate has for them."""

from typing import Literal

TrackerName = Literal[
    "aim",
    "clearml",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
]
