"""The student: its objective, its training step, its loop and its measurement."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from student.bridges import AdapterBridge, Bridge, LatentBridge, ProjectorBridge
    from student.bridges.calibrate import CalibrationReport, NoCoverageError
    from student.checkpoint import CheckpointError, export_student, read_complete
    from student.config import LossConfig, TrainConfig
    from student.distiller import Distiller, StepResult, Teaching, WeightedObjective
    from student.evaluate import bits_per_char, kv_health
    from student.loop.engine import Engine
    from student.loop.trainer import Job, NonFiniteLossError, Observer, train_phase
    from student.objective import (
        AttentionPair,
        Comparison,
        Objective,
        Relation,
        StepContext,
    )
    from student.terms.key_value import OBJECTIVES, term_weights
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "OBJECTIVES",
    "AdapterBridge",
    "AttentionPair",
    "Bridge",
    "CalibrationReport",
    "CheckpointError",
    "Comparison",
    "Distiller",
    "Engine",
    "Job",
    "LatentBridge",
    "LossConfig",
    "NoCoverageError",
    "NonFiniteLossError",
    "Objective",
    "Observer",
    "ProjectorBridge",
    "Relation",
    "StepContext",
    "StepResult",
    "Teaching",
    "TrainConfig",
    "WeightedObjective",
    "bits_per_char",
    "export_student",
    "kv_health",
    "read_complete",
    "term_weights",
    "train_phase",
]
