"""Extract a teacher's content keys and values of many texts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from align.kv import KV
from align.tokens import TokenBatch, encode_batch
from teacher.capture import KVCapture
from teacher.models import LoadedModel, load_model
from teacher.store import Manifest, save_kvs

logger = logging.getLogger(__name__)


class TeacherKVExtractor:
    """A frozen teacher that turns texts into KV.

    Args:
        model: a hub name, a folder, ``zoo:<name>``, or a model already loaded.
        batch_size: texts per forward, >= 1.
        max_length: longest text in tokens; longer ones are cut, with a warning.
            None means as long as the model has positions for.
        layers: layers to keep; None means all.
        device: where to run; None means a GPU if there is one.
        dtype: of the weights; None keeps the checkpoint's.
        which: as :class:`KVCapture`'s.
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
        self.capture = KVCapture(model.model, which=which)
        self.batch_size = batch_size
        self.layers = list(range(self.capture.num_layers) if layers is None else layers)
        self.max_length = _limit(max_length, self.capture, model.name)

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
        # Texts of like length share a batch, the longest first: if memory does not
        # suffice, that shows at once.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: dict[int, KV] = {}
        cut = 0
        starts = range(0, len(order), self.batch_size)
        for start in _shown(starts, self.loaded.name, progress):
            chosen = order[start : start + self.batch_size]
            batch, shortened = self._encode([texts[i] for i in chosen])
            cut += shortened
            for index, kv in zip(chosen, self._run(batch), strict=True):
                found[index] = kv
        if cut:
            logger.warning(
                "%s: %d of %d texts were cut to %s tokens",
                self.loaded.name,
                cut,
                len(texts),
                self.max_length,
            )
        return [found[index] for index in range(len(texts))]

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

    def _encode(self, texts: list[str]) -> tuple[TokenBatch, int]:
        batch = encode_batch(self.loaded.tokenizer, texts)
        limit = self.max_length
        if limit is None or batch.ids.shape[1] <= limit:
            return batch, 0
        longer = int((batch.mask.sum(dim=1) > limit).sum())
        return encode_batch(self.loaded.tokenizer, texts, max_length=limit), longer

    def _run(self, batch: TokenBatch) -> Iterator[KV]:
        lengths = batch.mask.sum(dim=1).tolist()
        if batch.ids.shape[1] == 0:
            yield from (self._nothing() for _ in lengths)
            return
        device = self.capture.device
        seen = self.capture(
            batch.ids.to(device), batch.mask.to(device), layers=self.layers
        ).kv.to("cpu")
        for row, length in enumerate(lengths):
            k = seen.k[:, row : row + 1, :, :length].clone()
            v = seen.v[:, row : row + 1, :, :length].clone()
            if not (k.isfinite().all() and v.isfinite().all()):
                raise ValueError(
                    f"teacher {self.loaded.name!r} gives keys or values that are not "
                    f"finite on the text {batch.texts[row][:60]!r}; load it with "
                    "dtype='float32'"
                )
            yield KV(k, v, torch.ones((1, length), dtype=torch.bool))

    def _nothing(self) -> KV:
        shape = (len(self.layers), 1, self.capture.num_kv_heads, 0)
        return KV(
            torch.zeros((*shape, self.capture.k_dim), dtype=self.capture.dtype),
            torch.zeros((*shape, self.capture.v_dim), dtype=self.capture.dtype),
            torch.ones((1, 0), dtype=torch.bool),
        )


def _limit(asked: int | None, capture: KVCapture, name: str) -> int | None:
    longest = capture.max_tokens
    if asked is None:
        return longest
    if asked < 1 or (longest is not None and asked > longest):
        valid = ">= 1" if longest is None else f"1..{longest}"
        raise ValueError(f"max_length={asked} for {name!r}; valid are {valid}")
    return asked


def _shown(starts: range, name: str, progress: bool | None) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    shown = sys.stderr.isatty() if progress is None else progress
    console = Console(stderr=True)
    return iter(track(starts, f"KV of {name}", console=console, disable=not shown))
