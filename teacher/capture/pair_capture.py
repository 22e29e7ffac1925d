"""An encoder-decoder that reads sources and targets, seen from inside its decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.kv import KV
from align.tokens.answered import two_parts
from align.views import (
    ATTENTION,
    FORETOLD,
    HEADS,
    KEYS_VALUES,
    STATES,
    Captured,
    Injection,
)
from teacher.capture.attention_sites import listening
from teacher.capture.kv_capture import KVCapture
from teacher.capture.recording import Enough, Recording
from teacher.loading.model_config import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NO_ATTENTION = (
    "an encoder-decoder attends to the source, to the target, and within its encoder, "
    "so that there is no one attention over source and target to be compared"
)
NO_STATES = (
    "an encoder-decoder holds states of the source in its encoder and of the target in "
    "its decoder, which are of no one layer"
)
NO_FORETELLING = "it says nothing of how likely the tokens of a source are"
NO_KEYS = (
    "its layers read source and target in one, while the student's decoder reads "
    "targets by self-attention and, by cross-attention, a source that its encoder has "
    "read to the end"
)
NO_KEYS_OF_PAIRS = (
    "its decoder reads targets by self-attention and, by cross-attention, a source "
    "that its encoder has read to the end, while who learns from it reads both in one"
)
LACKED_BY_PAIRS: Mapping[str, str] = {
    ATTENTION: NO_ATTENTION,
    HEADS: NO_ATTENTION,
    **dict.fromkeys(sorted(STATES), NO_STATES),
    FORETOLD: NO_FORETELLING,
}
"""What an encoder-decoder beside an encoder-decoder cannot give, with the reasons."""
LACKED_BESIDE_PAIRS: Mapping[str, str] = dict.fromkeys(
    (KEYS_VALUES, ATTENTION, HEADS, *sorted(STATES)), NO_KEYS
)
"""What any other teacher cannot."""
LACKED_BY_ONE: Mapping[str, str] = {KEYS_VALUES: NO_KEYS_OF_PAIRS}
"""What it cannot give beside a decoder, a peer of the run's student, either."""
NO_INJECTION = (
    "its keys and values of the source have read all of the source, so that they are "
    "never put in place of others"
)


class PairCapture(KVCapture):
    """Runs an encoder-decoder on rows of :func:`align.tokens.pairs.encode_pairs`.

    Its layers are those of the decoder. The keys and values of a layer are all that it
    attends to: those of its cross-attention at the tokens of the source, those of its
    self-attention at the tokens of the target. Both are what the library's own cache
    holds, and each layer's two maps stand on the same tokens' places as a decoder-only
    model's one.

    Args:
        model: as for :class:`KVCapture`, an encoder-decoder with a language-model head.

    Raises:
        InputError: the model is no such one, or its decoder is not given a start token
            and then the target but for its last token.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Learn the layers of both kinds of attention."""
        super().__init__(model, which="decoder")
        self.start = decoder_start(model)
        self._cross = KVCapture(model, which="cross")
        ours, theirs = self.sizes, self._cross.sizes
        kinds = [(x.layers, x.heads, x.k_dim, x.v_dim) for x in (ours, theirs)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"{type(model).__name__} cannot be captured: its decoder has (layers, "
                f"heads, key size, value size) {kinds[0]} in self-attention and "
                f"{kinds[1]} in cross-attention"
            )
        if model.get_output_embeddings() is None:
            raise InputError(
                f"{type(model).__name__} has no language-model head; load it with one "
                "(AutoModelForSeq2SeqLM)"
            )

    @property
    def predicts(self) -> bool:
        """True: the decoder has read of the target what came before."""
        return True

    def _read(
        self,
        wanted: list[int],
        ids: Tensor,
        mask: Tensor,
        rows: Tensor | None,
        *,
        logits: bool,
        hidden: bool,
        heads: bool,
        states: Collection[str],
        inject: Injection | None,
    ) -> Captured:
        for asked, why in (
            (rows is not None, NO_ATTENTION),
            (bool(states), NO_STATES),
            (inject is not None, NO_INJECTION),
        ):
            if asked:
                raise InputError(f"{type(self.model).__name__}: {why}")
        parts = _Parts(mask)
        inside, across = (
            Recording(capture._layers, wanted, device=self.device)
            for capture in (self, self._cross)
        )
        with (
            listening(self._modules, inside) if wanted else nullcontext(),
            listening(self._cross._modules, across) if wanted else nullcontext(),
            _at_head(self.model, stop=not (logits or self._offloaded)) as at_head,
        ):
            output = None
            with suppress(Enough):
                output = self.model(
                    input_ids=parts.of_source(ids),
                    attention_mask=parts.source_mask.long(),
                    decoder_input_ids=parts.of_target(ids),
                    decoder_attention_mask=parts.target_mask.long(),
                    use_cache=False,
                )
        content = self._nothing(ids)
        if wanted:
            both = zip(across.content(), inside.content(), strict=True)
            content_k, content_v = (parts.joined(*pair, axis=3) for pair in both)
            content = content_k, content_v
        return Captured(
            kv=KV(*content, mask),
            logits=parts.target_alone(output.logits) if logits and output else None,
            hidden=parts.target_alone(at_head[-1]) if hidden else None,
        )


def capture_of(model: Any) -> KVCapture:
    """A model that learns, or predicts beside one that does, seen from inside."""
    if getattr(model.config, "is_encoder_decoder", False):
        return PairCapture(model)
    return KVCapture(model)


def decoder_start(model: Any) -> int | None:
    """The token that a decoder is given before the target; None of a model without an
    encoder.

    Raises:
        InputError: the config names none, or the model makes its decoder's input of
            the target otherwise.
    """
    if not getattr(model.config, "is_encoder_decoder", False):
        return None
    name, start = type(model).__name__, model.config.decoder_start_token_id
    if start is None:
        raise InputError(
            f"{name} has no decoder_start_token_id in its config.json; set it to the "
            "token that its decoder begins with, most often that of padding"
        )
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    labels = torch.tensor([[3, 4, 5]], device=model.device)
    shifted = None if shift is None else shift(labels=labels).tolist()
    if shifted != [[start, 3, 4]]:
        raise InputError(
            f"{name} does not give its decoder decoder_start_token_id and then the "
            "target but for its last token, as T5, BART and Marian do: that is not "
            "learned here"
        )
    return int(start)


def start_of_folder(folder: str) -> int | None:
    """:func:`decoder_start` of a student that a run wrote, by its config.json."""
    config, kind = read_config(folder)
    return config.decoder_start_token_id if kind == "encoder-decoder" else None


class _Parts:
    """The parts of rows apart, each pushed to the left."""

    def __init__(self, mask: Tensor) -> None:
        source, target = two_parts(mask)
        if not bool(source.any(1).all() & target.any(1).all()):
            raise InputError(
                "a row holds one text, and an encoder-decoder reads a source and a "
                "target; give rows of align.tokens.pairs.encode_pairs"
            )
        places = torch.arange(mask.shape[1], device=mask.device)
        self._begin = target.int().argmax(1, keepdim=True)  # (B, 1)
        self.source_mask = _left(source.sum(1))
        self.target_mask = _left(target.sum(1))
        width = self.target_mask.shape[1]
        target_places = self._begin + places[:width]
        self._target = target_places.clamp(max=mask.shape[1] - 1)  # (B, T_t)
        sources = self.source_mask.shape[1]
        after = (places - self._begin).clamp(0, width - 1)  # (B, T)
        before = places.clamp(max=sources - 1).expand_as(after)
        self._joined = torch.where(places < self._begin, before, sources + after)
        self._after = after
        self._is_target = target
        self._real = mask

    def of_source(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, S)."""
        return ids[:, : self.source_mask.shape[1]].masked_fill(~self.source_mask, 0)

    def of_target(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T_t), the start token first."""
        return ids.gather(1, self._target).masked_fill(~self.target_mask, 0)

    def target_alone(self, x: Tensor) -> Tensor:
        """(B, T_t, C) -> (B, T, C), 0 where there is no target."""
        width = x.shape[-1]
        index = self._after[..., None].expand(-1, -1, width)
        return x.gather(1, index) * self._is_target[..., None]

    def joined(self, source: Tensor, target: Tensor, axis: int) -> Tensor:
        """(L, B, H, S, D) and (L, B, H, T_t, D) -> (L, B, H, T, D)."""
        both = torch.cat([source, target], axis)
        index = self._joined[None, :, None, :, None]
        shape = (*both.shape[:3], self._joined.shape[1], both.shape[4])
        real = self._real[None, :, None, :, None]
        return both.gather(axis, index.expand(shape)) * real


def _left(counts: Tensor) -> Tensor:
    """(B,) -> (B, N) bool, True on so many places from the left."""
    return torch.arange(int(counts.max()), device=counts.device) < counts[:, None]


@contextmanager
def _at_head(model: Any, stop: bool) -> Iterator[list[Tensor]]:
    """Note what the head is given, scaled as its logits are made of it.

    Args:
        model: with a head.
        stop: end the forward there, before any logits are made.
    """
    noted: list[Tensor] = []
    thread = get_ident()

    def note(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if get_ident() != thread:
            return
        noted.append(inputs[0])
        if stop:
            raise Enough

    hook = model.get_output_embeddings().register_forward_pre_hook(note)
    try:
        yield noted
    finally:
        hook.remove()
