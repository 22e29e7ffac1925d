"""What a moment of training is measured on: models and texts, of a run or of stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from align.text.documents import TextSample
from experiments.assemble.data import longest_texts
from experiments.assemble.models import Models
from experiments.assemble.splits import LEARNT
from experiments.config.tree import Config
from experiments.extraction.context import ExtractionContext, device
from experiments.run.context import Stage
from experiments.run.opening import LoadedRun
from plugins.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trial:
    """Models and texts that some steps are tried on."""

    config: Config
    registry: Registry
    stages: Sequence[Stage]
    """The phases of the run's own chain."""
    models: Models
    device: torch.device
    calibration: Sequence[TextSample]
    """As many as phases ask for, at the most."""
    usual: Sequence[TextSample]
    """Texts of the usual length."""
    longest: Sequence[TextSample]
    learned: int
    """Samples that the run learns from."""

    @classmethod
    def of_extraction(cls, extraction: ExtractionContext) -> Trial:
        """On what would be extracted; every teacher is asked live."""
        return cls(
            config=extraction.config,
            registry=extraction.registry,
            stages=extraction.stages,
            models=extraction.models,
            device=torch.device(device()),
            calibration=extraction.corpus.probe,
            usual=extraction.corpus.probe,
            longest=extraction.corpus.longest,
            learned=extraction.corpus.marks.count(LEARNT),
        )

    @classmethod
    def of_run(cls, run: LoadedRun, place: torch.device) -> Trial:
        """On what a run learns from, as it calibrates; stored teachers are read."""
        return cls(
            config=run.plan.config,
            registry=run.plan.registry,
            stages=run.stages,
            models=run.models,
            device=place,
            calibration=run.data.calibration,
            usual=run.data.train,
            longest=longest_texts(run.data.train),
            learned=len(run.data.train),
        )

    def weights_of(self, names: Sequence[str]) -> dict[str, int]:
        """Bytes of the teachers' weights by name; 0 of those that are read."""
        loaded = self.models.live
        return {
            name: held_bytes(loaded[name].loaded.model) if name in loaded else 0
            for name in names
        }


def held_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
