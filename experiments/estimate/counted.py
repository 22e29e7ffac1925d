"""What one training process will hold, line by line, before any model is at hand.

Weights, gradients and states are counted; activations are traced on models' own code
without weights (:mod:`experiments.estimate.traced`); losses follow from sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from align.layer_map import needs_sample
from align.sizes import Sizes
from experiments.assemble.layer_maps import layer_maps
from experiments.assemble.needs import sizes_of, wants_kv
from experiments.assemble.outputs import active_objectives, reading_outputs, speaking
from experiments.assemble.precision import autocast_of, settle
from experiments.assemble.teaching import build_bridge
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import Config, PhaseConfig, resolve_phases
from experiments.estimate.lines import Line, dtype_of, held_as, numbers_of
from experiments.estimate.shapes import PlannedModel, planned_student, planned_teachers
from experiments.estimate.steps import FLOAT, moments, zero_copies
from experiments.estimate.traced import How, Passes, passes, skeleton
from experiments.making.origin_map import with_origin_maps
from experiments.making.transforms import transformer_of
from experiments.run.arms import plan_arms, repeated_arms
from experiments.run.context import Stage
from experiments.sources.named import sources_of
from experiments.sources.phases import with_present
from experiments.writing.writer import AT_ONCE
from fuse.routers.router import learns
from plugins.registry import Registry
from student.config import TrainConfig
from student.layers import layers_read
from student.objective import ATTENTION, EMBEDDINGS, HEADS, STATES, compares, needs_of
from student.step.context import introduce
from student.step.modules import modules_of
from teacher.sources.peers import Peer

BLOCKS = {"cuda": 4, "cpu": 2}
"""Blocks of logits that a divergence holds: two models', and on a GPU as many for what
is between them; a CPU has that for a few rows at a time."""


def memory_plan(
    config: Config,
    processes: int = 1,
    registry: Registry | None = None,
    device: str = "cuda",
) -> list[Line]:
    """Plan the memory of a config's hungriest phase, at its peak.

    Args:
        config: its models' ``config.json`` are enough; see :func:`planned_model`.
            Teachers' texts are taken to have as many tokens as the student's longest.
        processes: that train together, among which ZeRO divides.
        registry: plugins; None loads the built-in and the installed ones.
        device: ``cuda`` or ``cpu``, where training will run; ``train.bf16=auto`` counts
            as true on the first and as false on the second.

    Returns:
        Lines that add up to the peak of what tensors take on the device. The CUDA
        context, libraries and what an allocator leaves unused come on top.

    Raises:
        ConfigError: the phases cannot be resolved.
        FileNotFoundError: a model's sizes are not at hand.
    """
    registry = registry or load_registry(config)
    phases = _resolved(config, registry)
    config, phases = settle(config, phases, device == "cuda")
    student = planned_student(config)
    teachers = planned_teachers(config, registry)
    sources = sources_of(config, registry).items()
    peers = {name for name, source in sources if isinstance(source, Peer)}
    plans = []
    for phase in phases:
        chosen = {name: teachers[name] for name in phase.select(teachers)}
        plan = _Plan(
            config,
            phase,
            registry=registry,
            student=student,
            teachers=chosen,
            peers=peers & chosen.keys(),
            processes=processes,
            device=device,
        )
        plans.append(plan.lines())
    return max(plans, key=lambda lines: sum(line.size for line in lines))


def planned_arms(config: Config, registry: Registry | None = None) -> list[str]:
    """Name the arms a run trains, from the models' ``config.json``.

    Raises:
        ConfigError: the phases cannot be resolved.
        FileNotFoundError: a model's sizes are not at hand.
    """
    registry = registry or load_registry(config)
    teachers = planned_teachers(config, registry)
    phases = _resolved(config, registry)
    arms = plan_arms(config, [Stage(p, tuple(p.select(teachers))) for p in phases])
    repeated = repeated_arms(arms)
    return [arm for arm in arms if arm not in repeated]


def _resolved(config: Config, registry: Registry) -> list[PhaseConfig]:
    phases = with_origin_maps(config, resolve_phases(config, presets_of(registry)))
    return with_present(config, phases, sources_of(config, registry))


class _Plan:
    """Of one phase."""

    def __init__(
        self,
        config: Config,
        phase: PhaseConfig,
        *,
        registry: Registry,
        student: PlannedModel,
        teachers: Mapping[str, PlannedModel],
        peers: Collection[str],
        processes: int,
        device: str,
    ) -> None:
        self.config, self.phase, self.registry = config, phase, registry
        self.peers = peers
        """Of the teachers, those that train."""
        self.student, self.teachers, self.processes = student, teachers, processes
        self.device = device
        self.train: TrainConfig = phase.train
        self.rows = self.train.batch_size * config.data.max_length
        """Tokens of a batch."""
        self.autocast = autocast_of(self.train)
        settings = config.student
        self.how = How(
            dtype=getattr(torch, settings.dtype),
            autocast=self.autocast,
            quantised=settings.quantise != "none",
            lora=settings.lora,
            checkpointing=self.train.gradient_checkpointing,
            trained=True,
            embeddings=settings.trained == "embeddings",
            transformed=transformer_of(phase, registry),
        )
        self.wide = (self.autocast or self.how.dtype).itemsize
        """Bytes of a number that the student computes."""
        self.terms = active_objectives(phase, registry)
        """By name."""
        self.compares = any(map(compares, self.terms.values()))
        """Whether keys and values are."""
        self.meets = wants_kv(phase, registry)
        """Whether teachers bring keys and values."""
        self.speaking = reading_outputs(phase, registry)
        """Terms that read next-token outputs."""
        self.heard = speaking(phase, registry, teachers)
        """Teachers that bring them."""
        self.needs = needs_of(self.terms)

    def lines(self) -> list[Line]:
        """All of them, those of no size left out."""
        items = [*self._student(), *self._bridge()]
        reading: list[int] = []
        for name, teacher in self.teachers.items():
            lines, peak = self._teacher(name, teacher)
            items += lines
            reading.append(peak)
        items += [*self._beside(), *self._moment(max(reading, default=0))]
        return [line for line in items if line.size]

    def _divided(self, size: int, least: int) -> int:
        stage = self.train.zero_stage if self.train.engine == "deepspeed" else 0
        return size // self.processes if stage >= least else size

    def _student(self) -> list[Line]:
        settings, model = self.config.student, skeleton(self.student.config, self.how)
        held = held_as(model, settings.quantise, settings.dtype)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        lines = [
            Line("student", what, self._divided(size, 3)) for what, size in held.items()
        ]
        bridge = self._trained_beside()
        self.passes = self._traced(self.student, self.how)
        count = trained + bridge + self.passes.learned
        zero = self.train.stage_of_deepspeed
        copies = zero_copies(FLOAT * count, self.processes, self.device) if zero else 0
        return [
            *lines,
            Line("student", "bridge and router, float32", FLOAT * bridge),
            Line("student", "transforms, what they learn", FLOAT * self.passes.learned),
            Line("student", "transforms, what they keep", self.passes.beside),
            Line("student", "gradients, float32", self._divided(FLOAT * count, 2)),
            Line(
                "student",
                f"optimiser, {self.train.optimizer}",
                self._divided(moments(self.train, count), 1),
            ),
            Line("student", "DeepSpeed's copies", copies),
            Line("student", "activations for the backward", self.passes.kept),
            Line("student", "activations, outcome pass", self._outcome()),
        ]

    def _traced(self, model: PlannedModel, how: How) -> Passes:
        tokens = self.config.data.max_length
        return passes(model.config, self.train.batch_size, tokens, how)

    def _outcome(self) -> int:
        """A second forward, whose graph begins where it first reads fused KV."""
        loss = self.phase.loss
        if not (self.teachers and loss.eta_outcome and loss.outcome_every):
            return 0
        if not self.meets:
            return 0
        layers = self.student.sizes.layers
        first = min(layers_read(loss.outcome_layers, layers))
        return self.passes.kept * (layers - first) // layers

    def _trained_beside(self) -> int:
        """Numbers in bridge, router and terms."""
        if not self.teachers:
            return 0
        fuse, student = self.phase.fuse, self.student
        with torch.device("meta"):
            introduce(self.terms, student.sizes, sizes_of(self.teachers))
            terms = modules_of(self.terms)
            bridge = build_bridge(
                self.phase,
                self.registry,
                student.sizes,
                self.teachers,
                self._maps(),
            )
            routers: list[nn.Module] = []
            build = self.registry.guarded("router", fuse.router)
            if learns(build):
                sizes, teachers = student.sizes, len(self.teachers)
                count = sizes.layers if fuse.routing_per_layer else 1
                routers = [
                    build(sizes.hidden_size, teachers, **fuse.router_options)
                    for _ in range(count)
                ]
        modules = [terms, *routers] if bridge is None else [bridge, terms, *routers]
        return sum(map(numbers_of, modules))

    def _maps(self) -> Any:
        """The phase's layer maps; of a strategy that needs a sample, ``ratio``'s."""
        phase = self.phase
        strategy = phase.align.layer_mapping_strategy
        if needs_sample(self.registry.guarded("layer_map", strategy)):
            align = replace(phase.align, layer_mapping_strategy="ratio")
            phase = replace(phase, align=align)
        layers = self.student.sizes.layers
        return layer_maps(phase, self.registry, layers, self.teachers, {}).maps

    def _bridge(self) -> list[Line]:
        """What is compared of keys and values: both sides on the student's tokens.

        Of the student the captured tensors and, in float32, standardised ones, their
        like with a one behind, the gradient and what it is made of.
        """
        loss, sizes = self.phase.loss, self.student.sizes
        lines: list[Line] = []
        if not self.teachers:
            return lines
        features = sizes.layers * self.rows * sizes.width
        if self.compares:
            lines = [
                Line("student", "keys and values", features * self.wide),
                Line("both", "distances of keys and values", 4 * FLOAT * features),
            ]
        if ATTENTION in self.needs:
            heads, batch = self.student.query_heads, self.train.batch_size
            size = sizes.layers * batch * heads * loss.attention_rows
            size *= self.config.data.max_length
            lines.append(Line("both", "attention rows", 3 * FLOAT * size))
        if HEADS in self.needs:  # as captured, restricted, its logarithm, the gradient
            heads, batch = self.student.query_heads, self.train.batch_size
            size = sizes.layers * batch * heads * loss.attention_rows
            size *= self.config.data.max_length
            lines.append(Line("both", "attention of every head", 6 * FLOAT * size))
        states = self.rows * self._states_of(sizes, sizes.layers)
        if states:  # as captured; standardised, twice in the backward
            size = (self.wide + 3 * FLOAT) * states
            lines.append(Line("student", "hidden states of every layer", size))
        return lines

    def _beside(self) -> list[Line]:
        """What goes on when the student's own pass is over, and its activations free:
        steps of peers, whole in every process, and writing."""
        lines, meanwhile = [], [0, self._writing()]
        for name in self.peers:
            model = self.teachers[name]
            checkpointed = self.train.gradient_checkpointing
            how = How(
                dtype=torch.float32,
                autocast=self.autocast,
                checkpointing=checkpointed,
                trained=True,
            )
            whole = skeleton(model.config, how)
            count = sum(p.numel() for p in whole.parameters() if p.requires_grad)
            optimiser = f"optimiser, {self.train.optimizer}"
            lines.append(Line(name, "gradients, float32", FLOAT * count))
            lines.append(Line(name, optimiser, moments(self.train, count)))
            meanwhile.append(self._traced(model, how).kept)
        what = "a peer's activations, or writing, beyond the student's"
        return [*lines, Line("both", what, max(0, max(meanwhile) - self.passes.kept))]

    def _writing(self) -> int:
        """A batch's cache and next logits; under ZeRO 3 the student, gathered, too."""
        written = self.config.data.written
        if not (written.on and self.teachers):
            return 0
        by = "" if written.own else str(written.by)
        model = self.teachers.get(by, self.student)
        tokens = written.opening_tokens + written.max_new_tokens
        cached = model.sizes.layers * tokens * model.sizes.width * self.wide
        once = AT_ONCE * (cached + FLOAT * model.vocab)
        if not (written.own and self.train.stage_of_deepspeed == 3):
            return once
        settings, student = self.config.student, skeleton(model.config, self.how)
        return once + sum(held_as(student, settings.quantise, settings.dtype).values())

    def _states_of(self, sizes: Sizes, layers: int) -> int:
        """Numbers a token of what terms compare between so many layers."""
        layered = len(self.needs & STATES - {EMBEDDINGS})
        embedded = sizes.embedding_size if EMBEDDINGS in self.needs else 0
        return layers * layered * sizes.hidden_size + embedded

    def _teacher(self, name: str, model: PlannedModel) -> tuple[list[Line], int]:
        """Its lines, and bytes for a moment while it reads."""
        entry, alone = self.config.teachers[name], model.config is None
        whole = alone or name in self.peers  # a store's numbers come in float32
        dtype = dtype_of("float32" if whole else entry.dtype, model, self.device)
        how = How(
            dtype=dtype, autocast=self.autocast, quantised=entry.quantise != "none"
        )
        lines = []
        stored, sizes = alone or self.config.store.reads(name), model.sizes
        if not stored:
            held = held_as(
                skeleton(model.config, how),
                entry.quantise,
                str(dtype).removeprefix("torch."),
            )
            lines = [Line(name, what, size) for what, size in held.items()]
        needed = len(self._maps()[name].needed) if self.meets else 0
        wide = (self.autocast or dtype).itemsize
        ahead = 2 if self.train.prefetch else 1
        kv = needed * self.rows * sizes.width * wide * ahead
        hidden = (
            self.rows * sizes.hidden_size * wide * ahead if name in self.heard else 0
        )
        layered = self.needs & STATES - {EMBEDDINGS}
        asked = len(self._maps()[name].needed) if layered else 0
        states = self.rows * self._states_of(sizes, asked)
        compared = self.rows * self._states_of(sizes, self.student.sizes.layers)
        features = self.student.sizes.layers * self.rows * sizes.width * self.compares
        per_number = FLOAT + (self.wide if self.autocast else 0)
        lines += [
            Line(name, f"keys and values, {ahead} batches", kv),
            Line(name, f"last hidden states, {ahead} batches", hidden),
            Line(name, "features for the student", features * per_number),
            Line(name, f"hidden states, {ahead} batches", states * wide * ahead),
            Line(name, "hidden states for the student", compared * 2 * FLOAT),
        ]
        if stored:
            return lines, 0
        return lines, self._traced(model, how).forward

    def _moment(self, reading: int) -> list[Line]:
        """What is there for a moment only: of the student's three the largest."""
        head = self.student.vocab
        losses = 0
        if self.speaking or self.phase.loss.delta_ce:
            losses = BLOCKS[self.device] * self.phase.output.block * head * FLOAT
            if self.autocast is not None and self.how.dtype == torch.float32:
                losses += head * self.student.sizes.hidden_size * self.autocast.itemsize
        peaks = {
            "a layer's forward": self.passes.forward,
            "a layer's backward": self.passes.backward,
            f"{BLOCKS[self.device]} blocks of logits": losses,
        }
        what = max(peaks, key=lambda name: peaks[name])
        beside = self.train.prefetch
        student = peaks[what]
        if not beside and reading > student:
            return [Line("both", "for a moment: a teacher's forward", reading)]
        return [
            Line("student", f"for a moment: {what}", student),
            Line("both", "beside it: a teacher's forward", reading if beside else 0),
        ]
