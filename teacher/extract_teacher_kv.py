"""Extract a teacher's content keys and values of many texts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from align.errors import InputError
from align.kv import KV
from align.tokens.batch import TokenBatch, encode_batch
from align.tokens.byte_lengths import ByteLengths
from align.tokens.named_head import NamedTokens
from teacher.capture.kv_capture import KVCapture
from teacher.capture.windows import Windows
from teacher.loading.models import LoadedModel, load_model
from teacher.own_loss import teacher_bits_per_char
from teacher.store import Manifest, save_kvs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """What a teacher gave on one text."""

    kv: KV
    """(L, 1, H, T, D) on the CPU, unpadded, in the model's dtype."""
    bits_per_char: float = float("nan")
    """The teacher's own loss, where it was asked for; see :mod:`teacher.own_loss`."""
    problem: str | None = None
    """Why the KV cannot be used."""
    named: NamedTokens | None = None
    """Its likeliest next tokens, where they were asked for."""


class TeacherKVExtractor:
    """A frozen teacher that turns texts into KV.

    Args:
        model: a hub name, a folder, ``zoo:NAME`` or ``zoo:SCALE/NAME``, or a model
            already loaded.
        batch_size: texts per forward, >= 1.
        max_length: longest text in tokens; longer ones are cut, with a warning.
            None means as long as the model has positions for, with ``windows`` any.
        layers: layers to keep; None means all.
        device: where to run; None means a GPU if there is one.
        dtype: of the weights; None keeps the checkpoint's.
        which: as :class:`KVCapture`'s.
        windows: as :class:`KVCapture`'s; how to read texts longer than these.
        resolve: as :func:`load_model`'s.

    Raises:
        FileNotFoundError: no such model.
        ValueError: an unsupported model, or an option out of range.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel,
        batch_size: int = 4,
        max_length: int | None = None,
        layers: Sequence[int] | None = None,
        device: str | torch.device | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        which: str = "auto",
        windows: Windows | None = None,
        resolve: Callable[[str], Path] | None = None,
    ) -> None:
        """Load the teacher and learn its layers."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if not isinstance(model, LoadedModel):
            model = load_model(model, dtype=dtype, resolve=resolve)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.loaded = model
        network: torch.nn.Module = model.model
        network.to(device).eval()
        self.capture = KVCapture(model.model, which=which, windows=windows)
        self.batch_size = batch_size
        self.layers = list(range(self.capture.num_layers) if layers is None else layers)
        self.max_length = _limit(max_length, self.capture, model.name)
        self._table = ByteLengths.of(model.tokenizer)

    @torch.no_grad()
    def extract_kvs(
        self, texts: Sequence[str], *, progress: bool | None = None
    ) -> list[KV]:
        """Extract one KV per text.

        Args:
            texts: any number; an empty text has the tokens its tokenizer adds
                around any text, often none.
            progress: show a bar; None means where the error stream is a terminal.

        Returns:
            In the order of ``texts``, each (L, 1, H, T, D) on the CPU with its own
            T, unpadded, in the model's dtype.

        Raises:
            TypeError: ``texts`` is one string or holds something else.
            ValueError: a text gives keys or values that are not finite.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one string; give a list of strings")
        kvs: dict[int, KV] = {}
        cut = 0
        shown = _shown(len(texts), self.loaded.name, progress)
        for index, kv, shortened in self._stream(texts, False, None):
            if kv.problem is not None:
                raise InputError(
                    f"teacher {self.loaded.name!r} gives {kv.problem} on the text "
                    f"{texts[index][:60]!r}; load it with dtype='float32'"
                )
            kvs[index] = kv.kv
            cut += shortened
            next(shown, None)
        if cut:
            logger.warning(
                "%s: %d of %d texts were cut to %s tokens",
                self.loaded.name,
                cut,
                len(texts),
                self.max_length,
            )
        return [kvs[index] for index in range(len(texts))]

    @torch.no_grad()
    def extract(
        self,
        texts: Sequence[str],
        *,
        own_loss: bool = False,
        top_k: int = 0,
        autocast: torch.dtype | None = None,
    ) -> list[Extracted]:
        """Extract whole texts, those with problems included.

        Args:
            texts: any number; what is held in memory grows with them.
            own_loss: also measure each text's bits per character, where the teacher
                is a decoder; the forward then runs to its end.
            top_k: also keep so many likeliest next tokens, of a teacher that predicts.
            autocast: dtype of matrix products; None for the model's own.

        Raises:
            ValueError: a text is longer than ``max_length``; it is not cut.
        """
        extracted: dict[int, Extracted] = {}
        for index, sample, shortened in self._stream(texts, own_loss, autocast, top_k):
            if shortened:
                raise InputError(
                    f"teacher {self.loaded.name!r} has {self.max_length} positions, "
                    f"too few for the text {texts[index][:60]!r}; cut texts shorter "
                    "(data.max_length), read it in windows, or leave the teacher out"
                )
            extracted[index] = sample
        return [extracted[index] for index in range(len(texts))]

    def _stream(
        self,
        texts: Sequence[str],
        own_loss: bool,
        autocast: torch.dtype | None,
        top_k: int = 0,
    ) -> Iterator[tuple[int, Extracted, bool]]:
        """Every text's number, KV, and whether it was cut, in an order of our own."""
        if isinstance(texts, str):
            raise TypeError("texts is one string; give a list of strings")
        # Texts of like length share a batch, the longest first: if memory does not
        # suffice, that shows at once.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch, cut = self._encode([texts[i] for i in chosen])
            device, on = self.capture.device.type, autocast is not None
            with torch.autocast(device, dtype=autocast, enabled=on):
                got = self._run(batch, own_loss, top_k)
            yield from zip(chosen, got, cut, strict=True)

    def save_kvs(
        self,
        kvs: Sequence[KV],
        path: str | Path,
        *,
        texts: Sequence[str] | None = None,
        overwrite: bool = False,
    ) -> Manifest:
        """Write KV with where they come from; see :func:`teacher.store.save_kvs`."""
        return save_kvs(
            kvs,
            path,
            texts=texts,
            provenance=self.provenance(),
            overwrite=overwrite,
        )

    def provenance(self) -> dict[str, Any]:
        """What must be equal for two extractions to be comparable."""
        import transformers

        config = self.loaded.model.config
        return {
            "model": self.loaded.name,
            "class": type(self.loaded.model).__name__,
            "commit": getattr(config, "_commit_hash", None),
            "which": self.capture.which,
            "layers": self.layers,
            "dtype": str(self.capture.dtype).removeprefix("torch."),
            "keys": "content",
            "max_length": self.max_length,
            "transformers": transformers.__version__,
        }

    def _encode(self, texts: list[str]) -> tuple[TokenBatch, list[bool]]:
        batch = encode_batch(self.loaded.tokenizer, texts, byte_lengths=self._table)
        limit = self.max_length
        if limit is None or batch.ids.shape[1] <= limit:
            return batch, [False] * len(texts)
        longer = (batch.mask.sum(dim=1) > limit).tolist()
        cut = encode_batch(
            self.loaded.tokenizer, texts, max_length=limit, byte_lengths=self._table
        )
        return cut, longer

    def _run(
        self, batch: TokenBatch, own_loss: bool, top_k: int = 0
    ) -> list[Extracted]:
        lengths = batch.mask.sum(dim=1).tolist()
        if batch.ids.shape[1] == 0:
            none = _no_tokens(top_k) if top_k else None
            return [Extracted(self._nothing(), named=none) for _ in lengths]
        own_loss = own_loss and self.capture.causal and self.capture.has_logits
        here = batch.to(self.capture.device)
        captured = self.capture(
            here.ids, here.mask, layers=self.layers, logits=own_loss or top_k > 0
        )
        bits = [float("nan")] * len(lengths)
        if own_loss:
            assert captured.logits is not None
            bits = teacher_bits_per_char(captured.logits, here).tolist()
        kv = captured.kv.to("cpu")
        extracted = [
            self._one(kv, row, length, bits[row]) for row, length in enumerate(lengths)
        ]
        if not top_k:
            return extracted
        assert captured.logits is not None
        return [
            _with_named(sample, logits[:length], ids[:length], top_k)
            for sample, logits, ids, length in zip(
                extracted, captured.logits, here.ids, lengths, strict=True
            )
        ]

    def _one(self, kv: KV, row: int, length: int, bits: float) -> Extracted:
        k = kv.k[:, row : row + 1, :, :length]
        v = kv.v[:, row : row + 1, :, :length]
        problem = None
        # A sum is much cheaper than a look at every value, and finite if they are
        # unless it overflows.
        if not bool(torch.isfinite(k.float().sum() + v.float().sum())):
            finite = (k.isfinite().all(-1) & v.isfinite().all(-1)).flatten(1).all(1)
            if not bool(finite.all()):
                layer = self.layers[int((~finite).nonzero()[0])]
                problem = f"keys or values that are not finite, first in layer {layer},"
        mask = torch.ones((1, length), dtype=torch.bool)
        return Extracted(KV(k, v, mask), bits, problem)

    def _nothing(self) -> KV:
        shape = (len(self.layers), 1, self.capture.num_kv_heads, 0)
        return KV(
            torch.zeros((*shape, self.capture.k_dim), dtype=self.capture.dtype),
            torch.zeros((*shape, self.capture.v_dim), dtype=self.capture.dtype),
            torch.ones((1, 0), dtype=torch.bool),
        )


def _with_named(
    sample: Extracted, logits: torch.Tensor, ids: torch.Tensor, top_k: int
) -> Extracted:
    """A text with its likeliest next tokens, on the CPU."""
    if not bool(torch.isfinite(logits.float().logsumexp(-1)).all()):
        return replace(sample, problem=sample.problem or "outputs that are not finite")
    return replace(sample, named=NamedTokens.of(logits, ids, top_k).to("cpu"))


def _no_tokens(top_k: int) -> NamedTokens:
    return NamedTokens.of(torch.zeros(0, top_k), torch.zeros(0).long(), top_k)


def _limit(asked: int | None, capture: KVCapture, name: str) -> int | None:
    longest = capture.max_tokens
    if asked is None:
        return longest
    if asked < 1 or (longest is not None and asked > longest):
        valid = ">= 1" if longest is None else f"1..{longest}"
        raise InputError(f"max_length={asked} for {name!r}; valid are {valid}")
    return asked


def _shown(count: int, name: str, progress: bool | None) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    shown = sys.stderr.isatty() if progress is None else progress
    console = Console(stderr=True)
    return iter(
        track(range(count), f"KV of {name}", console=console, disable=not shown)
    )
