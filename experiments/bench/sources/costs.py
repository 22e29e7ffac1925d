"""The measurements behind ``python -m experiments.bench.sources``."""

from __future__ import annotations

from copy import deepcopy

import torch

from experiments.assemble.data import Encoder
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.teaching import build_objectives, build_phase_teachers
from experiments.bench.measure import Bar, paired_ratio, show
from experiments.bench.step.costs import TOKENS, drawn_model, full_texts
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from experiments.sources.making import Making
from experiments.sources.named import source_of
from experiments.sources.phases import Followers
from student.distiller import Distiller
from student.loop.batches import BatchMaker
from student.places import Share
from teacher.capture.kv_capture import KVCapture
from teacher.sources.base import PhaseStart

BATCH = 8
LIMIT = 1.05
FROZEN = "student:start"
MOVING = ("ema", "checkpoint:-1")
OUTPUTS_ALONE = [
    "output.kd=1",
    *(f"loss.{term}=0" for term in ("lambda_k", "lambda_v", "beta_cos", "gamma_kl")),
]


class School:
    """A student that is taught by a copy of itself."""

    def __init__(self, scale: str, model: str) -> None:
        """Draw the student, and have the source make its teacher."""
        teachers = {"me": {"model": model}}
        config = load_config(
            {"teachers": teachers, "phases": ["single"]}, OUTPUTS_ALONE
        )
        registry, presets = load_registry(config), builtin_presets()
        phase = resolve_phase(config, "single", presets)
        student = drawn_model(scale, "student", False)
        encode = Encoder(student.tokenizer, TOKENS)
        samples = full_texts(encode, BATCH)
        source = source_of(config, "me", registry)
        making = Making(
            name="me",
            entry=config.teachers["me"],
            device=torch.device("cpu"),
            make_student=lambda folder, seed: deepcopy(student.model),
            student_tokenizer=student.tokenizer,
        )
        start = PhaseStart(
            earlier={}, kept=[], begins=None, texts_per_step=BATCH, texts=len(samples)
        )
        teacher = source.begin(making, start) or source.open(making)
        capture = KVCapture(student.model)
        phase_teachers = build_phase_teachers(
            phase,
            registry=registry,
            student=capture,
            encode=encode,
            teachers={"me": teacher},
            shares={"me": 1.0},
            samples=samples[-BATCH:],
            progress=lambda items, *_: items,
        )
        taught = {"me": teacher}
        self.distiller = Distiller(
            student.model,
            capture,
            objectives=build_objectives(phase, registry, True),
            config=phase.loss,
            teaching=phase_teachers.teaching,
            output=output_plan(phase, registry, capture, student.tokenizer, taught),
            head=own_head(phase, capture),
        )
        self.followers = Followers.of({"me": source}, taught, student.model)
        self.maker = BatchMaker(
            samples=samples,
            encode=encode,
            views=phase_teachers.panel,
            seed=0,
            rows=0,
            batch_size=BATCH,
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
        """One optimiser step, after which the teacher moves, if it does."""
        made = self.maker.make(self.steps % 2)
        share = Share(made.places, made.counts, made.step)
        result = self.distiller(made.batch, made.views, made.rows, 1, False, share)
        result.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        if self.followers is not None:
            self.followers.after_step(self.steps)


def measure(scale: str, rounds: int) -> bool:
    """Measure and print; True where all bars are kept."""
    torch.set_num_threads(1)
    frozen = School(scale, FROZEN)
    bars = []
    for model in MOVING:
        moving = School(scale, model)
        ratio = paired_ratio(moving.step, frozen.step, rounds)
        name = f"a step with {model} / with a frozen teacher of the same size"
        bars.append(Bar(name, ratio, LIMIT))
    return show(bars)
