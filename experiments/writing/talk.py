"""A talk with one model, turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from align.errors import InputError
from experiments.writing.drawing import Drawing
from experiments.writing.writer import Writer


class Talk:
    """What was said so far, as much of it as the model can read."""

    def __init__(self, writer: Writer, drawing: Drawing) -> None:
        """Begin it.

        Args:
            writer: the model; without a chat template it goes on with plain text.
            drawing: how it chooses words; every turn takes the next seed.
        """
        self._writer, self._drawing = writer, drawing
        self._turns: list[tuple[str, str]] = []
        self._answers = 0
        self.forgotten = 0
        """Turns that the latest answer was written without, for the first time."""

    def reset(self) -> None:
        """Forget all."""
        self._turns.clear()

    def answer(self, message: str, show: Callable[[str], None]) -> str:
        """Answer a message, showing words as they come.

        An interrupt ends the answer, not the talk: what was shown of it counts.

        Args:
            message: not empty.
            show: takes each piece of the answer.

        Returns:
            The answer.

        Raises:
            InputError: the message alone is too long to be answered.
        """
        ids = self._clipped(message)
        parts: list[str] = []

        def keep(text: str) -> None:
            parts.append(text)
            show(text)

        try:
            seed = self._drawing.seed + self._answers
            drawing = replace(self._drawing, seed=seed)
            self._answers += 1
            self._writer.stream(ids, drawing, _streamer(self._writer, keep))
        except KeyboardInterrupt:
            show(" …")
        answer = "".join(parts)
        self._turns.append((message, answer))
        return answer

    def _clipped(self, message: str) -> list[int]:
        """Tokens of the talk, the oldest turns left out until an answer fits.

        Room is kept for a whole answer, or half of the context where that is less.
        """
        writer, wanted = self._writer, self._drawing.max_new_tokens
        context = writer.context
        room = wanted if context is None else min(wanted, context // 2)
        for left_out in range(len(self._turns) + 1):
            turns = self._turns[left_out:]
            try:
                ids = self._ids(turns, message)
            except InputError:  # too long, or refused, whatever is left out
                if not turns:
                    raise
                continue
            if not turns or writer.room(len(ids), wanted) >= room:
                break
        self._turns, self.forgotten = turns, left_out
        return ids

    def _ids(self, turns: Sequence[tuple[str, str]], message: str) -> list[int]:
        if not self._writer.talks:
            said = "".join(f"{asked}{answer}\n" for asked, answer in turns)
            return self._writer.ids(said + message)
        messages = []
        for asked, answer in turns:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answer})
        return self._writer.chat_ids([*messages, {"role": "user", "content": message}])


def _streamer(writer: Writer, show: Callable[[str], None]) -> Any:
    """Give text as soon as its last word is whole, in this very thread."""
    from transformers import TextStreamer

    class Shown(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                show(text)

    return Shown(
        writer.tokenizer,
        skip_prompt=True,
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
