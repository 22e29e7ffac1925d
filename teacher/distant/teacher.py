"""A teacher whose model runs in another process, as whoever trains sees it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from align.errors import (
    InputError,
    MachineError,
    MissingFileError,
    MissingPackageError,
    MtkdError,
    RunError,
)
from align.kv import KV
from align.rope_scale import Rescale
from align.sizes import Sized, Sizes
from align.tokens.batch import TokenBatch
from align.views import Asked, Captured, Injection, LinearHead
from teacher.capture.kv_capture import KVCapture
from teacher.capture.windows import Windows
from teacher.distant.wire import Line, LineGoneError, Message
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import LoadedModel
from teacher.making.base import Sample

ERRORS: Mapping[str, type[MtkdError]] = {
    kind.__name__: kind
    for kind in (
        InputError,
        MissingFileError,
        MissingPackageError,
        RunError,
        MachineError,
    )
}
"""Types that an error keeps on its way, by their names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DistantCapture(Sized):
    """What is known of the model of another process, and how it is run there.

    See :class:`teacher.capture.kv_capture.KVCapture`, whose answers these are.
    """

    line: Line
    key: str
    """What the other process calls the model."""
    rank: int
    """Of the launch, who that process is."""
    model: Any
    """Its make, on PyTorch's ``meta``."""
    device: torch.device
    """Where answers go."""
    sizes: Sizes
    """Of the captured layers."""
    causal: bool
    predicts: bool
    """See :attr:`teacher.capture.kv_capture.KVCapture.predicts`."""
    max_tokens: int | None
    windows: Windows | None
    layer_numbers: Sequence[int]
    layers_without_kv: Mapping[int, str]
    which: str
    start: int | None
    """What the decoder is given first, of pairs of a source and a target."""

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        layers: Sequence[int] | None = None,
        logits: bool = False,
        hidden: bool = False,
        inject: Injection | None = None,
        attention_rows: Tensor | None = None,
        heads: bool = False,
        states: Collection[str] = (),
    ) -> Captured:
        """Run the model there, under the autocast that holds here, without gradient."""
        if inject is not None:
            raise InputError("into a teacher of another process nothing is injected")
        return self.look(
            ids,
            mask,
            layers=layers,
            logits=logits,
            hidden=hidden,
            rows=attention_rows,
            heads=heads,
            states=states,
        )[0]

    def look(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        layers: Sequence[int] | None,
        logits: bool = False,
        nll: bool = False,
        hidden: bool,
        rows: Tensor | None,
        heads: bool,
        states: Collection[str],
    ) -> tuple[Captured, Tensor | None]:
        """The same, and (B, T) float32 next-token losses in place of ``logits``, which
        are as large as all else together."""
        kind, sent = self.device.type, {"ids": ids, "mask": mask}
        autocast = torch.is_autocast_enabled(kind)
        asked = {
            "layers": None if layers is None else list(layers),
            "logits": logits,
            "nll": nll,
            "hidden": hidden,
            "heads": heads,
            "states": sorted(states),
            "autocast": str(torch.get_autocast_dtype(kind)) if autocast else None,
        }
        if rows is not None:
            sent["rows"] = rows
        answer = self.ask("look", asked, sent)
        parts = {name: part.to(self.device) for name, part in answer.tensors.items()}
        captured = Captured(
            kv=KV(parts.pop("k"), parts.pop("v"), mask),
            logits=parts.pop("logits", None),
            hidden=parts.pop("hidden", None),
            attention=parts.pop("attention", None),
            attention_heads=parts.pop("attention_heads", None),
            states={s: parts.pop(f"states.{s}") for s in sorted(states)},
        )
        return captured, parts.pop("nll", None)

    def ask(
        self,
        what: str,
        head: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Message:
        """Ask the process where the model is.

        Raises:
            MachineError: it is gone.
            MtkdError: what it failed with.
        """
        question = {"what": what, "key": self.key, **(head or {})}
        return asked(self.line, self.rank, Message(question, tensors or {}))


@dataclass(frozen=True, eq=False)  # without slots: what is told once is kept
class DistantTeacher(LiveTeacher):
    """See :class:`teacher.live_teacher.LiveTeacher`; its tokenizer reads here, and its
    model in another process."""

    types: Mapping[str, int]
    """See :attr:`weight_types`, of the model as it is held there."""

    @property
    def _there(self) -> DistantCapture:
        return cast(DistantCapture, self.capture)

    @classmethod
    def of(
        cls,
        name: str,
        loaded: LoadedModel,
        facts: Mapping[str, Any],
        *,
        line: Line,
        rank: int,
        device: torch.device,
        beside_pairs: bool = False,
    ) -> DistantTeacher:
        """Of what the other process says of it, see :func:`facts_of`.

        Args:
            name: in the config.
            loaded: its tokenizer, and its model without weights.
            facts: from there.
            line: to that process.
            rank: which one it is, of the launch.
            device: where answers go.
            beside_pairs: whether the student is an encoder-decoder.
        """
        known = dict(facts)
        windows, types = known.pop("windows"), known.pop("types")
        sizes = Sizes(**known.pop("sizes"))
        without = {int(n): why for n, why in known.pop("layers_without_kv").items()}
        capture = DistantCapture(
            line=line,
            rank=rank,
            model=loaded.model,
            device=device,
            sizes=sizes,
            windows=None if windows is None else Windows(*windows),
            layers_without_kv=without,
            **known,
        )
        return cls(
            name, loaded, cast(KVCapture, capture), types, beside_pairs=beside_pairs
        )

    @property
    def weight_types(self) -> Mapping[str, int]:
        """Of the model as the other process holds it."""
        return self.types

    @cached_property
    def head(self) -> LinearHead:
        """A copy of the other process's."""
        parts = self._there.ask("head").tensors
        weight = parts["weight"].to(self._there.device)
        bias = parts.get("bias")
        return LinearHead(weight, None if bias is None else bias.to(weight.device))

    def look(
        self,
        tokens: TokenBatch,
        asked: Asked,
        rows: Tensor | None,
        *,
        heads: bool,
        nll: bool,
    ) -> tuple[Captured, Tensor | None]:
        """See :meth:`teacher.live_teacher.LiveTeacher.look`."""
        return self._there.look(
            tokens.ids,
            tokens.mask,
            layers=asked.layers,
            nll=nll,
            hidden=asked.output,
            rows=rows,
            heads=heads,
            states=asked.states,
        )

    def extend(self, tokens: int, scaler: Rescale, linear: bool) -> bool:
        """Have the other process do so, by the scaler of the same name."""
        answer = self._there.ask("extend", {"tokens": tokens, "linear": linear})
        return bool(answer.head["changed"])

    def judged(self, sample: Sample) -> Tensor:
        """Have the other process measure it."""
        sent: dict[str, Tensor] = {}
        for n, (ids, mask) in enumerate(sample.batches):
            sent |= {f"ids{n}": ids, f"mask{n}": mask}
        answer = self._there.ask("importance", {"batches": len(sample.batches)}, sent)
        return answer.tensors["importance"]


def facts_of(teacher: LiveTeacher) -> dict[str, Any]:
    """What :meth:`DistantTeacher.of` needs to know, of what JSON holds."""
    capture, windows = teacher.capture, teacher.capture.windows
    return {
        "sizes": asdict(teacher.sizes),
        "causal": capture.causal,
        "predicts": capture.predicts,
        "max_tokens": capture.max_tokens,
        "windows": windows and [windows.tokens, windows.stride],
        "layer_numbers": list(capture.layer_numbers),
        "layers_without_kv": dict(capture.layers_without_kv),
        "which": capture.which,
        "start": capture.start,
        "types": dict(teacher.weight_types),
    }


def asked(line: Line, rank: int, question: Message) -> Message:
    """The answer of another process, or what went wrong there.

    Raises:
        MachineError: the process is gone.
        MtkdError: what it failed with.
    """
    try:
        answer = line.ask(question)
    except LineGoneError as error:
        raise MachineError(
            f"process {rank}, which holds teachers (train.teacher_ranks), is gone "
            f"({error}); what it died of stands in its own output. What was saved is "
            "intact, and the same command goes on from there"
        ) from error
    if "error" not in answer.head:
        return answer
    kind, text = answer.head["error"]
    if kind in ERRORS:
        raise ERRORS[kind](text)
    raise RunError(f"process {rank}: {kind}: {text}")
