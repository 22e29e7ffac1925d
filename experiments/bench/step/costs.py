"""The measurements behind ``step.py``."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from align.support.stopwatch import Stopwatch
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from experiments.assemble.checks import timetable_of
from experiments.assemble.data import Encoder, cutter_of
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.selecting.selectors import build_selection
from experiments.assemble.teaching import (
    PhaseTeachers,
    build_balance,
    build_objectives,
    build_phase_teachers,
)
from experiments.bench.measure import Bar, paired_ratio, show
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from student.config import EngineName, TrainConfig
from student.distiller import Distiller
from student.loop.batches import BatchMaker, TrainBatch
from student.loop.engine import Engine
from student.loop.phase_checkpoint import Keeper
from student.loop.trainer import Job, Observer, train_phase
from student.places import Share
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import LoadedModel
from teacher.zoo.recipes import recipes
from teacher.zoo.train import initial_model, initial_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEACHERS = ("gpt2-prose", "qwen-code", "neox-mixed")
BATCH, TOKENS = 14, 128
WHOLE, STALL = 1.05, 0.02
SPACES = ("student", "losses")
"""Where teachers meet: ``student`` adapts and fuses, ``losses`` projects."""


class Scene:
    """A student with its teachers, as a phase sets them up, and as they are bare."""

    def __init__(
        self,
        scale: str,
        space: str,
        larger: bool,
        *,
        settings: Sequence[str] = (),
        teachers: Sequence[str] = TEACHERS,
        load: Callable[[str], LoadedModel] | None = None,
        batch_size: int = BATCH,
        tokens: int = TOKENS,
        texts: int = 4096,
    ) -> None:
        """Load the zoo, or models of its families of twice the width and depth.

        Args:
            scale: of the zoo.
            space: where teachers meet.
            larger: twice the width and depth.
            settings: on top, as on a command line.
            teachers: names.
            load: gives ``student`` and teachers by name, in place of the zoo.
            batch_size: texts of a step.
            tokens: most of a text.
            texts: among which the longest are chosen.
        """
        config = load_config(
            {"teachers": list(teachers), "data": {"max_length": tokens}},
            [
                f"phase.all.fuse.space={space}",
                "phase.all.loss.outcome_every=0",
                *settings,
            ],
        )
        load = load or (lambda name: drawn_model(scale, name, larger))
        self._names = tuple(teachers)
        registry = load_registry(config)
        self.phase = resolve_phase(config, "multi_basic", builtin_presets())
        self.registry = registry
        student, *models = (load(name) for name in ("student", *teachers))
        self.bare_student, self.bare_teachers = student, models
        self.encode = Encoder(student.tokenizer, tokens)
        self.samples = full_texts(self.encode, batch_size, texts)
        self.distiller, self.phase_teachers = self._distiller(student, models)
        self.maker = BatchMaker(
            samples=self.samples,
            encode=self.encode,
            views=self.phase_teachers.panel,
            seed=0,
            rows=16,
            batch_size=batch_size,
            first_sample=0,
            device=torch.device("cpu"),
            rank=0,
            world_size=1,
            survey=self.distiller.survey,
        )
        self._batches = [
            _encode(teacher, self.maker.make(0).samples)
            for teacher in (student, *models)
        ]

    def _distiller(
        self, student: LoadedModel, teachers: Sequence[LoadedModel]
    ) -> tuple[Distiller, PhaseTeachers]:
        self.capture = capture = KVCapture(student.model)
        taught = {
            name: LiveTeacher(name, teacher, KVCapture(teacher.model))
            for name, teacher in zip(self._names, teachers, strict=True)
        }
        timetable = timetable_of(self.phase, self.registry, 1)
        phase_teachers = build_phase_teachers(
            self.phase,
            registry=self.registry,
            student=capture,
            encode=self.encode,
            teachers=taught,
            shares=dict.fromkeys(self._names, 1.0),
            samples=self.samples[-16:],
            progress=lambda items, *_: items,
            timetable=timetable,
        )
        terms = build_objectives(self.phase, self.registry, True)
        teaching = phase_teachers.teaching
        head = own_head(self.phase, capture)
        return Distiller(
            student.model,
            capture,
            objectives=terms,
            config=self.phase.loss,
            teaching=teaching,
            head=head,
            output=output_plan(
                self.phase, self.registry, capture, student.tokenizer, taught
            ),
            balance=build_balance(self.phase, self.registry, terms),
            timetable=timetable,
            selection=build_selection(self.phase, self.registry, self._names, ()),
        ), phase_teachers

    def whole(self) -> None:
        """One forward and backward pass with everything."""
        self._pass(self.maker.make(0))
        self.distiller.zero_grad()

    def _pass(self, train_batch: TrainBatch) -> None:
        share = Share(train_batch.places, train_batch.counts, train_batch.step)
        result = self.distiller(
            train_batch.batch, train_batch.views, train_batch.rows, 1, False, share
        )
        result.loss.backward()

    def bare(self) -> None:
        """The models alone: the student both ways, each teacher's body forward."""
        student, *teachers = self._batches
        model: Any = self.bare_student.model
        out = model(
            input_ids=student.ids,
            attention_mask=student.mask.long(),
            labels=student.ids,
        )
        out.loss.backward()
        model.zero_grad()
        with torch.no_grad():
            for loaded, batch in zip(self.bare_teachers, teachers, strict=True):
                body: Any = loaded.model.base_model
                body(input_ids=batch.ids, attention_mask=batch.mask.long())

    def split(self) -> dict[str, float]:
        """Shares of a whole pass by part; what has no name is the student's."""
        watch = Stopwatch()
        with watch.listening(), watch.count("student and backward"):
            train_batch = self.maker.make(0)
            self._pass(train_batch)
        self.distiller.zero_grad()
        seconds = watch.take()
        made = dict(train_batch.seconds)
        seconds["student and backward"] -= sum(made.values())
        every = seconds | made
        return {name: value / sum(every.values()) for name, value in every.items()}


def measure(scale: str, rounds: int, only: str | None) -> bool:
    """Measure and print; True where all bars are kept."""
    torch.set_num_threads(1)
    bars: list[Bar] = []
    if only != "engine":
        for larger in (False, True):
            for space in SPACES:
                bars.append(_whole(scale, space, larger, rounds))
    if only != "step":
        bars.append(_stall(scale))
        _deepspeed(scale, max(2, rounds // 2))
    return show(bars)


def _whole(scale: str, space: str, larger: bool, rounds: int) -> Bar:
    scene = Scene(scale, space, larger)
    scene.distiller.train()
    size = "one size up" if larger else "zoo sizes"
    name = f"whole step / bare parts, {size}, meeting in {space}"
    ratio = paired_ratio(scene.whole, scene.bare, rounds)
    tokens = int(scene.maker.make(0).batch.mask.sum())
    parts = ", ".join(f"{part} {share:.1%}" for part, share in scene.split().items())
    print(f"{name}: {ratio:.3f}\n  {tokens} tokens; {parts}", flush=True)
    return Bar(name, ratio, WHOLE)


def _stall(scale: str) -> Bar:
    """Seconds of a checkpoint over those of the steps of the default interval."""
    scene = Scene(scale, "student", larger=False)
    config = TrainConfig(
        steps=7, batch_size=BATCH, engine="torch", checkpoint_every=2, log_every=1
    )
    with tempfile.TemporaryDirectory(prefix="mtkd-step-") as folder:
        lines = _train(scene, config, Keeper(folder=Path(folder))).lines
    saves = [line["seconds"] for line in lines if line["kind"] == "checkpoint"]
    steps = [line["step_s"] for line in lines if line["kind"] == "train"]
    every = TrainConfig().checkpoint_every
    stall = statistics.median(saves) / (every * statistics.median(steps[1:]))
    print(f"a checkpoint takes {statistics.median(saves):.2f} s, every {every} steps")
    return Bar("checkpoint / steps of its interval", stall, STALL)


def _deepspeed(scale: str, rounds: int) -> None:
    """Print what DeepSpeed adds on one process; there is no bar."""
    ratios = []
    for _ in range(rounds):
        engines: tuple[EngineName, ...] = ("torch", "deepspeed")
        spent = {engine: _steps(scale, engine) for engine in engines}
        ratios.append(spent["deepspeed"] / spent["torch"])
    ratio = statistics.median(ratios)
    print(f"DeepSpeed ZeRO 1 / plain PyTorch, one process: {ratio:.3f}\n")


def _steps(scale: str, engine: EngineName) -> float:
    """Processor seconds of six steps."""
    scene = Scene(scale, "student", larger=False)
    config = TrainConfig(steps=7, batch_size=BATCH, engine=engine, prefetch=False)
    clock = _train(scene, config).clock
    return clock[-1] - clock[0]


def _train(scene: Scene, config: TrainConfig, keeper: Keeper | None = None) -> _Marks:
    engine, marks = Engine(replace(config, threads=1)), _Marks()
    job = Job(
        samples=scene.samples,
        encode=scene.encode,
        views=scene.phase_teachers.panel,
        steps=config.steps or 0,
        seed=0,
        checkpoints=keeper,
        observer=marks,
    )
    try:
        train_phase(scene.distiller, engine, job, config)
    finally:
        engine.close()
    return marks


class _Marks(Observer):
    """Keeps a phase's metrics lines, and the processor's clock after each step."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.clock: list[float] = []

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def tick(self, done: int) -> None:
        self.clock.append(time.process_time())


def drawn_model(scale: str, name: str, larger: bool) -> LoadedModel:
    """A model of the zoo, or of its family and twice its width and depth, as drawn: no
    step takes longer for what a model has learned.
    """
    recipe = recipes(scale)[name]
    model = initial_model(recipe, _tokenizer(scale, name))
    config: Any = model.config
    if larger:
        _double(config)
        model = type(model)(config)
    model.set_attn_implementation("sdpa")  # what a folder is loaded with
    student = recipe.role == "student"
    model.train(student).requires_grad_(student)
    return LoadedModel(model, _tokenizer(scale, name), "decoder", name)


@lru_cache
def _tokenizer(scale: str, name: str) -> PreTrainedTokenizerFast:
    return initial_tokenizer(recipes(scale)[name])


def _double(config: Any) -> None:
    for field in ("hidden_size", "n_embd", "intermediate_size", "n_inner"):
        if getattr(config, field, None):
            setattr(config, field, 2 * getattr(config, field))
    for field in ("num_hidden_layers", "n_layer"):
        if hasattr(config, field):
            setattr(config, field, 2 * getattr(config, field))
    if getattr(config, "head_dim", None):
        config.head_dim *= 2
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types * 2


def full_texts(encode: Encoder, batch_size: int, texts: int = 4096) -> list[TextSample]:
    """Texts that fill the student's length, cut as a run cuts them."""
    from teacher.zoo import zoo_samples

    long = zoo_samples("prose", "student", texts)
    pieces = list(cutter_of(encode).pieces(long))
    return sorted(pieces, key=lambda s: len(s.text))[-max(16, 4 * batch_size) :]


def _encode(loaded: LoadedModel, samples: Sequence[TextSample]) -> TokenBatch:
    texts = [sample.text for sample in samples]
    return Encoder(loaded.tokenizer, None)(texts)
