"""Teachers' keys and values on a student's layers and tokens, as a phase meets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from align.text.documents import TextSample
from experiments.assemble.data import Encoder, cutter_of
from experiments.assemble.teaching import PhaseTeachers, build_phase_teachers
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from experiments.config.zoo_names import build_named
from student.attention_sinks import without_sinks
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model
from teacher.zoo import zoo_samples

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAINS = ("prose", "code")
PHASE = "multi_basic"
_BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Features:
    """Of the student's tokens that every teacher covers and another one follows."""

    sides: Mapping[str, Tensor]
    """``keys`` and ``values``: (L_s, N, C) float32, all teachers' side by side."""
    tokens: Tensor
    """(N,) int64, the student's."""
    following: Tensor
    """(N,) int64, the student's token after each."""


class School:
    """A student and its teachers, as a run with ``fuse.space: losses`` begins."""

    def __init__(
        self,
        student: str,
        teachers: Sequence[str],
        *,
        tokens: int,
        settings: Sequence[str] = (),
    ) -> None:
        """Load the models, and fit what teachers' keys and values are by position.

        Args:
            student: name of a model.
            teachers: names of two or more.
            tokens: most of a text.
            settings: on top, as on a command line.
        """
        names = [name.replace(":", "/").rpartition("/")[2] for name in teachers]
        config = load_config(
            {"teachers": names, "data": {"max_length": tokens}},
            [
                "phase.all.fuse.space=losses",
                "phase.all.loss.outcome_every=0",
                "phase.all.loss.gamma_kl=0",
                f"train.batch_size={_BATCH}",
                *settings,
            ],
        )
        build_named([student, *teachers])
        self._phase = resolve_phase(config, PHASE, builtin_presets())
        registry = load_registry(config)
        model = load_model(student, role="teacher", dtype=torch.float32)
        self.encode = Encoder(model.tokenizer, tokens)
        loaded = (load_model(name, role="teacher") for name in teachers)
        asked = {
            name: LiveTeacher(name, teacher, KVCapture(teacher.model))
            for name, teacher in zip(names, loaded, strict=True)
        }
        self._teachers: PhaseTeachers = build_phase_teachers(
            self._phase,
            registry=registry,
            student=KVCapture(model.model),
            encode=self.encode,
            teachers=asked,
            shares=dict.fromkeys(names, 1.0),
            samples=self.texts("calibration", _BATCH * 2),
            progress=lambda items, *_: items,
        )
        self.names = tuple(names)

    @property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Of each teacher's ``keys`` and ``values``."""
        shapes = self._bridge.teachers
        return {
            "keys": tuple(shape.k_width for shape in shapes),
            "values": tuple(shape.v_width for shape in shapes),
        }

    def texts(self, split: str, count: int) -> list[TextSample]:
        """The first of each domain, as many from each, cut to the student's length."""
        cutter = cutter_of(self.encode)
        chosen: list[TextSample] = []
        for domain in DOMAINS:
            pieces = list(cutter.pieces(zoo_samples(domain, split)))
            chosen += pieces[:: max(1, len(pieces) // count)][:count]
        return chosen

    def read(self, samples: Sequence[TextSample]) -> Features:
        """Ask all teachers about texts."""
        every = list(self._batches(samples))
        return Features(
            sides={
                side: torch.cat([sides[side] for sides, _, _ in every], 1)
                for side in ("keys", "values")
            },
            tokens=torch.cat([tokens for _, tokens, _ in every]),
            following=torch.cat([following for _, _, following in every]),
        )

    @property
    def _bridge(self):  # type: ignore[no-untyped-def]
        bridge = self._teachers.teaching.bridge
        assert bridge is not None, "keys and values are compared"
        return bridge

    @torch.no_grad()
    def _batches(
        self, samples: Sequence[TextSample]
    ) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
        skip = self._phase.loss.skip_sinks
        for start in range(0, len(samples), _BATCH):
            batch = self.encode([s.text for s in samples[start : start + _BATCH]])
            views = self._teachers.panel(batch)
            keep = without_sinks(batch, views, skip).all(-1) & batch.has_text
            for view in views:
                keep &= view.alignment.covered
            after = batch.has_text.roll(-1, 1)
            after[:, -1] = False
            keep &= after
            met = [
                [view.alignment.apply(x)[:, keep].float() for x in kv]
                for view, kv in (
                    (view, self._bridge.depth(m, view)) for m, view in enumerate(views)
                )
            ]
            sides = {
                side: torch.cat([pair[number] for pair in met], -1)
                for number, side in enumerate(("keys", "values"))
            }
            following = batch.ids.roll(-1, 1)
            yield sides, batch.ids[keep], following[keep]
