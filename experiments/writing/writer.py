"""Let a model continue texts, each as if it stood alone.

An encoder-decoder reads the prompt as its source and writes a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from align.bounds.steps import within_steps
from align.errors import InputError
from align.support.caches import cache_given
from align.text.chat import has_template
from align.tokens.batch import encode_batch, end_id
from align.tokens.pairs import target_settings
from align.tokens.placed import pad_id
from experiments.writing.drawing import Drawing
from teacher.capture.forward import evaluating
from teacher.capture.limits import position_limit
from teacher.capture.pair_capture import decoder_start
from teacher.loading.longer_texts import trained_length
from teacher.writing.ways import Way

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

Stopped = Literal["end", "length", "context"]
AT_ONCE = 16
"""Prompts per batch."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote after a prompt."""

    text: str
    """Without the prompt, and without special tokens."""
    stopped: Stopped
    """By its end-of-text token, at ``max_new_tokens``, or where its context ends."""
    weight: float = 1.0
    """Its share among the texts of its prompt; they sum to 1."""
    ids: tuple[int, ...] = ()
    """Its tokens, the end left out."""


class Writer:
    """A model in evaluation mode, and the tokenizer of its texts."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        """Hold them; the model's own generation settings but its ends are dropped, and
        what an encoder-decoder never writes or always begins with.

        Args:
            model: of transformers, causal or an encoder-decoder, on its device.
            tokenizer: fast.
            name: for errors.
        """
        from transformers import GenerationConfig

        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.ends = _ends(model, tokenizer)
        self.start = decoder_start(model)
        """What an encoder-decoder's target begins with; None of a causal model."""
        kept = {} if self.start is None else target_settings(model.generation_config)
        model.generation_config = GenerationConfig(**kept)
        limits = (position_limit(model), trained_length(model))
        self.context = min((n for n in limits if n is not None), default=None)
        """Most tokens of prompt and text together; None where nothing limits them."""

    @property
    def talks(self) -> bool:
        """Whether it has a chat template."""
        return has_template(self.tokenizer)

    def ids(self, prompt: str) -> list[int]:
        """A prompt's tokens, begun as the tokenizer begins texts and left open.

        Raises:
            InputError: it is empty, or too long to add a token.
        """
        if not prompt:
            raise InputError("the prompt is empty; give the words to go on from")
        end = False if self.start is None else None  # sources end as texts do
        batch = encode_batch(self.tokenizer, [prompt], learn_end=end)
        return self._fitting(batch.ids[0].tolist(), prompt)

    def first_ids(self) -> list[int]:
        """What a text begins with that goes on from nothing.

        Raises:
            InputError: the tokenizer has no token for that.
        """
        if self.start is not None:
            raise InputError(
                f"{self.name} is an encoder-decoder, which writes a target of a "
                "source; give prompts, which it reads as sources"
            )
        first = self.tokenizer.bos_token_id
        if first is None:
            first = end_id(self.tokenizer)
        if first is None:
            raise InputError(
                f"{self.name} has no token with which a text begins; give prompts, or "
                "beginnings of texts"
            )
        return [int(first)]

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens of a talk in the model's chat template, up to where it answers.

        Args:
            messages: ``role`` and ``content`` of each turn.

        Raises:
            InputError: no template, one that refuses the talk, an empty message, or
                more tokens than the context.
        """
        if not self.talks:
            raise InputError(
                f"{self.name} has no chat template; leave --chat out, and it goes on "
                "with the text as it is"
            )
        last = messages[-1]["content"]
        if not last:
            raise InputError("the prompt is empty; give the words to answer")

        def fill() -> str:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
            return text

        try:
            text = within_steps(fill, "it")
        except Exception as error:  # templates raise errors of their own
            raise InputError(
                f"the chat template of {self.name} refuses the talk: {error}"
            ) from error
        encoded = self.tokenizer(text, add_special_tokens=False)
        return self._fitting(list(encoded["input_ids"]), last)

    def room(self, tokens: int, most: int) -> int:
        """How many tokens may follow so many, at most ``most``."""
        return most if self.context is None else min(most, self.context - tokens)

    def write(
        self, prompts: Sequence[Sequence[int]], drawing: Drawing
    ) -> list[Written]:
        """Continue prompts, each once; see :meth:`texts`."""
        texts = self.texts(
            prompts,
            drawing.way,
            max_new_tokens=drawing.max_new_tokens,
            seed=drawing.seed,
        )
        return [written[0] for written in texts]

    def texts(
        self,
        prompts: Sequence[Sequence[int]],
        way: Way,
        *,
        max_new_tokens: int,
        seed: int,
    ) -> list[list[Written]]:
        """Continue prompts, several at once, padded on the left.

        Positions count real tokens only (:mod:`teacher.capture.left_padding`), so that
        what is written greedily is what each prompt alone would give.

        Args:
            prompts: token ids, from :meth:`ids` or :meth:`chat_ids`.
            way: how tokens are chosen, and how many texts there are of a prompt.
            max_new_tokens: at most so many, >= 1.
            seed: of what is drawn, together with which prompts there are.

        Returns:
            The texts of each prompt, none twice.
        """
        results: dict[int, list[Written]] = {}
        by_room: dict[int, list[int]] = {}
        for index, ids in enumerate(prompts):
            by_room.setdefault(self.room(len(ids), max_new_tokens), []).append(index)
        fields = way.fields()
        each = fields.get("num_return_sequences", 1)
        at_once = max(1, AT_ONCE // max(each, fields.get("num_beams", 1)))
        batches = [
            (room, indices[start : start + at_once])
            for room, indices in by_room.items()
            for start in range(0, len(indices), at_once)
        ]
        for number, (room, indices) in enumerate(batches):
            rows = [list(prompts[index]) for index in indices]
            # One seed for all would draw the same for equal prompts of two batches.
            new = self._generated(rows, room, fields, seed + number)
            for place, index in enumerate(indices):
                of_one = new[place * each : (place + 1) * each]
                short = room < max_new_tokens
                results[index] = self._kept(rows[place], of_one, way, short)
        return [results[index] for index in range(len(prompts))]

    def stream(self, prompt: list[int], drawing: Drawing, to: BaseStreamer) -> None:
        """Continue one prompt, handing over every token as it comes."""
        room = self.room(len(prompt), drawing.max_new_tokens)
        self._generated([prompt], room, drawing.way.fields(), drawing.seed, to)

    @torch.no_grad()
    def log_likelihood(self, ids: list[int], new: list[int]) -> float:
        """The log-likelihood of tokens after a prompt, nats, its end included."""
        end = next((at for at, token in enumerate(new) if token in self.ends), len(new))
        kept = new[: end + 1]
        device = self.model.device
        chosen = torch.tensor(kept, device=device)[:, None]
        if self.start is None:
            row = torch.tensor([[*ids, *kept]], device=device)
            logits = self.model(row, use_cache=False).logits[0, len(ids) - 1 : -1]
        else:
            source = torch.tensor([ids], device=device)
            target = torch.tensor([[self.start, *kept[:-1]]], device=device)
            output = self.model(source, decoder_input_ids=target, use_cache=False)
            logits = output.logits[0]
        return float(logits.double().log_softmax(-1).gather(-1, chosen).sum())

    def _kept(
        self, ids: list[int], new: list[list[int]], way: Way, short: bool
    ) -> list[Written]:
        """The texts of one prompt, and their weights."""
        written = [self._read(ids, tokens, short) for tokens in new]
        kept = way.chosen([text.text for text in written])
        shares = torch.zeros(len(kept), dtype=torch.float64)
        if way.by_likelihood and len(kept) > 1:
            likelihoods = [self.log_likelihood(ids, new[index]) for index in kept]
            shares = torch.tensor(likelihoods, dtype=torch.float64)
        weights = shares.softmax(0).tolist()
        return [
            replace(written[index], weight=weight)
            for index, weight in zip(kept, weights, strict=True)
        ]

    def _fitting(self, ids: list[int], prompt: str) -> list[int]:
        if self.context is not None and len(ids) >= self.context:
            raise InputError(
                f"the prompt {prompt[:40]!r} has {len(ids)} tokens, but {self.name} "
                f"reads {self.context}, the text that it adds included; give at most "
                f"{self.context - 1}"
            )
        return ids

    @torch.no_grad()
    def _generated(
        self,
        rows: Sequence[list[int]],
        room: int,
        fields: Mapping[str, Any],
        seed: int,
        streamer: BaseStreamer | None = None,
    ) -> list[list[int]]:
        """New ids of every row's texts, special and padding ids after ends included."""
        from transformers import GenerationConfig

        device = self.model.device
        padding = pad_id(self.tokenizer)
        ids, mask = _padded(rows, padding, left=self.start is None)
        devices = [device] if device.type == "cuda" else []
        settings = GenerationConfig(
            max_new_tokens=room,
            eos_token_id=self.ends or None,
            pad_token_id=padding,
            decoder_start_token_id=self.start,
            **fields,
        )
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            whole: Tensor = self.model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                streamer=streamer,
                synced_gpus=False,  # one process writes; others wait elsewhere
                **cache_given(self.model.config),
            )
        before = ids.shape[1] if self.start is None else 1
        return [row.tolist() for row in whole[:, before:].cpu()]

    def _read(self, ids: list[int], new: list[int], short: bool) -> Written:
        """New ids as text, joined to the prompt's as the tokenizer joins tokens."""
        end = next((at for at, token in enumerate(new) if token in self.ends), None)
        kept = new[:end]
        ids = ids if self.start is None else []  # the source is no part of the text
        before, whole = (self._decoded(part) for part in (ids, [*ids, *kept]))
        # Where the prompt's last character was not complete, it is part of neither.
        joined = whole.startswith(before)
        text = whole[len(before) :] if joined else self._decoded(kept)
        if end is not None:
            return Written(text, "end", ids=tuple(kept))
        return Written(text, "context" if short else "length", ids=tuple(kept))

    def _decoded(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


@contextmanager
def lent(
    model: Any, tokenizer: Any, name: str, autocast: torch.dtype | None
) -> Iterator[Writer]:
    """A model that writes for a while, and is then as it was.

    Args:
        model: causal; in training mode or not.
        tokenizer: its.
        name: for errors.
        autocast: as it is trained.
    """
    settings = model.generation_config
    narrow = torch.autocast(
        model.device.type,
        dtype=autocast,
        enabled=autocast is not None,
        cache_enabled=False,
    )
    with evaluating(model), narrow:
        try:
            yield Writer(model, tokenizer, name)
        finally:
            model.generation_config = settings


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a text: the model's, or else the tokenizer's."""
    given = getattr(model.generation_config, "eos_token_id", None)
    ids = given if isinstance(given, list) else [given]
    return sorted({int(i) for i in [*ids, end_id(tokenizer)] if i is not None})


def _padded(
    rows: Sequence[list[int]], padding: int, left: bool
) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, T) int64, all rows ending at the right, or beginning at the
    left."""
    longest = max(map(len, rows))

    def filled(row: list[int], by: int) -> list[int]:
        fill = [by] * (longest - len(row))
        return fill + row if left else row + fill

    ids = [filled(row, padding) for row in rows]
    mask = [filled([1] * len(row), 0) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)
