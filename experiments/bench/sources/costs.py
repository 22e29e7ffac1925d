"""The measurements behind ``python -m experiments.bench.sources``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from copy import deepcopy

import torch

from experiments.assemble.data import Encoder
from experiments.bench.measure import Bar, paired_ratio, seconds, show
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

    def __init__(
        self, scale: str, model: str, terms: Sequence[str] = ("output.kd=1",)
    ) -> None:
        """Draw the student, and have the source make its teacher."""
        teachers = {"me": {"model": model}}
        config = load_config(
            {"teachers": teachers, "phases": ["single"]},
            [*terms, *OUTPUTS_ALONE],
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
            learning=student.model,
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


def share_of_asking(scale: str, rounds: int) -> None:
    """Print how much of a step the pass takes in which ``self`` is asked."""
    torch.set_num_threads(1)
    layers = drawn_model(scale, "student", False).model.config.num_hidden_layers
    last = f"align.layer_map={{me: {[layers - 1] * layers}}}"
    term = "{use: match, site: hidden, distance: cosine, weight: 0.1}"
    school = OfItself(scale, "self", [last, f"loss.terms.deep={term}"])
    school.step()
    shares = []
    for _ in range(rounds):
        asking = seconds(lambda: school.maker.make(school.steps % 2))
        shares.append(asking / seconds(school.step))
    share = statistics.median(shares)
    print(f"asking self takes {share:.3f} of a step, tokenising counted")


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
