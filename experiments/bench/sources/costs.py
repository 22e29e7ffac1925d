"""The measurements behind ``python -m experiments.bench.sources``."""

from __future__ import annotations

from copy import deepcopy

import torch

from experiments.assemble.data import Encoder
from experiments.bench.measure import Bar, paired_ratio, show
from experiments.bench.school import BATCH, OUTPUTS_ALONE, School
from experiments.bench.step.costs import TOKENS, drawn_model, full_texts
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from experiments.sources.making import Making
from experiments.sources.named import source_of
from experiments.sources.phases import Followers
from teacher.sources.base import PhaseStart

LIMIT = 1.05
FROZEN = "student:start"
MOVING = ("ema", "checkpoint:-1")


class OfItself(School):
    """A student that is taught by a copy of itself, which may follow it."""

    def __init__(self, scale: str, model: str) -> None:
        """Draw the student, and have the source make its teacher."""
        teachers = {"me": {"model": model}}
        config = load_config(
            {"teachers": teachers, "phases": ["single"]},
            ["output.kd=1", *OUTPUTS_ALONE],
        )
        registry = load_registry(config)
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
        taught = {"me": source.begin(making, start) or source.open(making)}
        super().__init__(
            resolve_phase(config, "single", builtin_presets()),
            registry,
            student=student,
            teachers=taught,
            encode=encode,
            samples=samples,
        )
        self.followers = Followers.of({"me": source}, taught, student.model)

    def step(self) -> None:
        """One optimiser step, after which the teacher moves, if it does."""
        super().step()
        if self.followers is not None:
            self.followers.after_step(self.steps)


def measure(scale: str, rounds: int) -> bool:
    """Measure and print; True where all bars are kept."""
    torch.set_num_threads(1)
    frozen = OfItself(scale, FROZEN)
    bars = []
    for model in MOVING:
        moving = OfItself(scale, model)
        ratio = paired_ratio(moving.step, frozen.step, rounds)
        name = f"a step with {model} / with a frozen teacher of the same size"
        bars.append(Bar(name, ratio, LIMIT))
    return show(bars)
