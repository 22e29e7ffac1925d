"""A school in miniature: tiny real teachers, a student, and what is between them."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align.layer_map import build_multi_teacher_layer_map
from align.schedules import Timetable
from align.text.documents import TextSample
from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner, encode_batch
from align.tokens.batch import TokenBatch
from align.views import Captured
from fuse.routers.router import LearnableRouter
from fuse.routing_loss import EntropyRegularizer
from fuse.weigher import FixedWeigher, Weigher
from fuse.z.space import ZSpace
from student.balance import BALANCERS, Balance
from student.bridges import (
    AdapterBridge,
    Bridge,
    LatentBridge,
    ProjectorBridge,
    TeacherShape,
)
from student.bridges.calibrate import CalibrationReport, calibrate
from student.config import ChosenTerm, LossConfig
from student.distiller import Distiller, Teaching, WeightedObjective
from student.loop.engine import Engine
from student.terms.key_value import OBJECTIVES, chosen_terms
from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import load_model
from teacher.panel import LiveTeacher, TeacherPanel
from tests.read_once import copies_of

DECODERS = ("gpt2-prose", "qwen-code")
MAX_LENGTH = 40


class RememberedCapture(KVCapture):
    """A frozen teacher runs once for the same tokens: tests ask about few texts."""

    KEPT = 200

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._answers: dict[Any, Captured] = {}

    def __call__(self, ids: Tensor, mask: Tensor, **asked: Any) -> Captured:
        if torch.is_grad_enabled():
            return super().__call__(ids, mask, **asked)
        dtype = next(self.model.parameters()).dtype
        key = dtype, *map(_as_key, (ids, mask, *sorted(asked.items())))
        if key not in self._answers:
            while len(self._answers) >= self.KEPT:
                self._answers.pop(next(iter(self._answers)))
            self._answers[key] = super().__call__(ids, mask, **asked)
        return self._answers[key]


def _as_key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.numpy().tobytes()
    if isinstance(value, list | tuple):
        return tuple(map(_as_key, value))
    return value


@dataclass(kw_only=True)
class Lesson:
    """A distiller with the panel that feeds it."""

    distiller: Distiller
    panel: TeacherPanel | None
    capture: KVCapture
    model: Any
    report: CalibrationReport | None = None

    @property
    def bridge(self) -> Bridge:
        assert self.distiller.bridge is not None
        return self.distiller.bridge

    def run(self, batch: TokenBatch, step: int = 0):
        """One forward pass with the teachers' views; returns the StepResult."""
        rows = batch.mask.sum(1, keepdim=True) * torch.linspace(0.2, 0.9, 4)
        rows = rows.long()
        views = self.panel(batch, rows) if self.panel else ()
        return self.distiller(batch, views, rows, step)


@dataclass
class School:
    """Loads each teacher once, each student afresh."""

    folders: dict[str, Path]
    samples: list[TextSample]
    live: dict[str, LiveTeacher] = field(default_factory=dict)
    tokenizer: Any = None
    loaded: Any = field(default=None, kw_only=True)
    copied: Any = field(default=None, kw_only=True)
    calibrated: dict[Any, Any] = field(default_factory=dict, kw_only=True)

    def teacher(self, name: str) -> LiveTeacher:
        if name not in self.live:
            loaded = load_model(str(self.folders[name]))
            self.live[name] = LiveTeacher(name, loaded, RememberedCapture(loaded.model))
        return self.live[name]

    def student(self, seed: int | None = None, **config: Any) -> Any:
        """A fresh student; ``config`` changes the model and draws new weights."""
        if self.loaded is None:
            self.loaded = load_model(str(self.folders["student"]), role="student")
            self.tokenizer = self.loaded.tokenizer
            self.copied = copies_of(self.loaded.model)
        model = self.copied()
        if seed is None and not config:
            return model
        torch.manual_seed(seed or 0)
        settings = model.config
        for name, value in config.items():
            setattr(settings, name, value)
        return type(model)(settings)

    def encode(self, texts: Sequence[str], max_length: int = MAX_LENGTH) -> TokenBatch:
        if self.tokenizer is None:
            self.student()
        return encode_batch(self.tokenizer, list(texts), max_length=max_length)

    def batch(self, count: int = 3, first: int = 0) -> TokenBatch:
        """Encoded samples of different lengths."""
        chosen = self.samples[first : first + count]
        return self.encode([s.text[: 50 + 25 * i] for i, s in enumerate(chosen)])

    def lesson(
        self,
        kind: str | None = "adapter",
        teachers: Sequence[str] = DECODERS,
        loss: LossConfig | None = None,
        *,
        routed: bool = False,
        model: Any = None,
        weigher: nn.Module | None = None,
        capture: Any = None,
        causal_aligner: Any = None,
        balance: str | None = None,
        timetable: Timetable | None = None,
    ) -> Lesson:
        """A calibrated bridge of one kind; None: cross-entropy alone."""
        loss = loss or LossConfig()
        # a given student or aligner may be of any kind: it is calibrated for itself
        usual = model is None and causal_aligner is None
        if model is None:
            model = self.student()
        self.encode(["x"])
        own = KVCapture(model)
        chosen = chosen_terms(loss) if kind else {"ce": ChosenTerm(kind="ce")}
        terms = {
            name: WeightedObjective(term.weight, OBJECTIVES[term.kind](**term.options))
            for name, term in chosen.items()
        }
        if kind is None:
            return Lesson(
                distiller=Distiller(model, own, objectives=terms, config=loss),
                panel=None,
                capture=own,
                model=model,
            )
        maps = build_multi_teacher_layer_map(
            [self.teacher(name).sizes.layers for name in teachers], own.num_layers
        )
        panel = TeacherPanel(
            [self.teacher(name) for name in teachers],
            CharIoUAligner(),
            causal_aligner or CausalCharIoUAligner(),
            layers={n: m.needed for n, m in zip(teachers, maps, strict=True)},
            attention=True,
            own_loss=True,
        )
        key = (kind, tuple(teachers), loss.skip_sinks) if usual else None
        bridge, report = self._calibrated(
            key,
            lambda: self.bridge(kind, own, teachers, maps),
            lambda bridge, given: calibrate(own, bridge, given, loss.skip_sinks),
            panel,
        )
        regularizer = None
        if weigher is None:
            weigher = FixedWeigher([1.0] * len(teachers))
            if routed:
                weigher = Weigher(LearnableRouter(own.hidden_size, len(teachers)))
                regularizer = EntropyRegularizer()
        distiller = Distiller(
            model,
            capture or own,
            objectives=terms,
            config=loss,
            teaching=Teaching(bridge, weigher, regularizer),
            balance=balance_of(balance, terms),
            timetable=timetable,
        )
        return Lesson(
            distiller=distiller, panel=panel, capture=own, model=model, report=report
        )

    def _calibrated(
        self,
        key: Any,
        make: Callable[[], Bridge],
        fit: Callable[[Bridge, Any], CalibrationReport],
        panel: TeacherPanel,
    ) -> tuple[Bridge, CalibrationReport]:
        """A fresh bridge with its report; the work of a known key is done once.

        The generator goes on as after calibrating, whichever way it came about.
        """
        if key in self.calibrated:
            copied, state = self.calibrated[key]
            torch.set_rng_state(state)
            return copied()
        torch.manual_seed(0)
        bridge = make()
        texts = [s.text for s in self.samples[-16:]]
        parts = [self.encode(texts[i : i + 8]) for i in (0, 8)]
        report = fit(bridge, [(b, panel(b)) for b in parts])
        if key is not None:
            state = torch.get_rng_state()
            self.calibrated[key] = copies_of(deepcopy((bridge, report))), state
        return bridge, report

    def bridge(self, kind: str, own: KVCapture, teachers: Sequence[str], maps: Any):
        def widths(c: KVCapture) -> tuple[int, int]:
            return c.sizes.k_width, c.sizes.v_width

        shape = own.sizes
        captures = [self.teacher(name).capture for name in teachers]
        shapes = [
            TeacherShape(name=n, sizes=c.sizes, layer_map=m, causal=c.causal)
            for n, c, m in zip(teachers, captures, maps, strict=True)
        ]
        if kind == "latent":
            z = ZSpace(
                teacher_dims=[widths(c) for c in captures],
                student_dims=widths(own),
                num_layers=own.num_layers,
                z_dim=12,
            )
            return LatentBridge(shape, shapes, z)
        return {"adapter": AdapterBridge, "projector": ProjectorBridge}[kind](
            shape, shapes
        )


def balance_of(name: str | None, terms: Sequence[str]) -> Balance | None:
    """A built-in balancer of some terms; None for none."""
    names = list(terms)
    if name is None:
        return None
    next_token = "ce" if "ce" in names else None
    return Balance(BALANCERS[name](tuple(names)), names, next_token)


@pytest.fixture(scope="session")
def school(tiny_zoo: dict[str, Path]) -> School:
    """Tiny teachers and texts of both domains, long enough for every test."""
    from teacher.zoo import DOMAINS, zoo_samples

    every = {
        d: [s for s in zoo_samples(d, "student", 400) if len(s.text) > 250]
        for d in DOMAINS
    }
    pairs = zip(*(found[:40] for found in every.values()), strict=True)
    return School(tiny_zoo, [sample for pair in pairs for sample in pair])


@pytest.fixture
def only():
    """Loss settings with every weight at zero but the named ones."""
    off = dict.fromkeys(
        ["lambda_k", "lambda_v", "beta_cos", "gamma_kl", "delta_ce", "eta_outcome"], 0.0
    )

    def make(**on: Any) -> LossConfig:
        return LossConfig(**(off | on))

    return make


@pytest.fixture
def start_engine(monkeypatch: pytest.MonkeyPatch):
    """Engines one after another in this process; the environment is put back."""
    for name in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    started: list[Engine] = []

    def start(config: Any) -> Engine:
        while started:
            started.pop().close()
        started.append(Engine(config))
        return started[-1]

    yield start
    while started:
        started.pop().close()
