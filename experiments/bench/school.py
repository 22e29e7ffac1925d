"""A student in class: whole optimiser steps of a phase, for benches of teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from align.text.documents import TextSample
from align.views import Teacher
from experiments.assemble.data import Encoder
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.teaching import build_objectives, build_phase_teachers
from experiments.config.tree import PhaseConfig
from plugins.registry import Registry
from student.distiller import Distiller
from student.loop.batches import BatchMaker
from student.places import Share
from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import LoadedModel

BATCH = 8
OUTPUTS_ALONE = [
    f"loss.{term}=0" for term in ("lambda_k", "lambda_v", "beta_cos", "gamma_kl")
]
"""Settings under which keys, values and attention are not compared."""


class School:
    """A student, its teachers, and the two batches that it reads in turn."""

    def __init__(
        self,
        phase: PhaseConfig,
        registry: Registry,
        *,
        student: LoadedModel,
        teachers: Mapping[str, Teacher],
        encode: Encoder,
        samples: Sequence[TextSample],
        batch: int = BATCH,
    ) -> None:
        """Build the phase.

        Args:
            phase: what is learned.
            registry: everything that it can call by name.
            student: which learns.
            teachers: by name.
            encode: the student's tokenizer.
            samples: texts; adapters are calibrated on the last of them.
            batch: texts of a step.
        """
        capture = KVCapture(student.model)
        phase_teachers = build_phase_teachers(
            phase,
            registry=registry,
            student=capture,
            encode=encode,
            teachers=teachers,
            shares=dict.fromkeys(teachers, 1.0),
            samples=samples[-BATCH:],
            progress=lambda items, *_: items,
        )
        self.distiller = Distiller(
            student.model,
            capture,
            objectives=build_objectives(phase, registry, True),
            config=phase.loss,
            teaching=phase_teachers.teaching,
            output=output_plan(phase, registry, capture, student.tokenizer, teachers),
            head=own_head(phase, capture),
        )
        self.maker = BatchMaker(
            samples=samples,
            encode=encode,
            views=phase_teachers.panel,
            seed=0,
            rows=0,
            batch_size=batch,
            first_sample=0,
            device=torch.device("cpu"),
            rank=0,
            world_size=1,
            survey=self.distiller.survey,
        )
        trained = [p for p in self.distiller.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.steps = 0

    def step(self) -> None:
        """One optimiser step."""
        made = self.maker.make(self.steps % 2)
        share = Share(made.places, made.counts, made.step)
        result = self.distiller(made.batch, made.views, made.rows, 1, False, share)
        result.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
