"""How servers are asked how likely a text's tokens are, and how they answer.

Source: vLLM's ``prompt_logprobs`` of its completions endpoint; the ``echo`` and
``logprobs`` of OpenAI's; ``return_logprob`` of SGLang's ``/generate``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

Name = Literal["vllm", "echo", "sglang"]
"""Of a dialect, in a config."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a server says of one token of a text, after those before it."""

    likeliest: Mapping[int, float]
    """Nats by id; the token that came may be among them."""
    came: float
    """Nats, of the token that came."""
    spelled: str | None
    """The token that came, by the server's tokenizer; None where it does not say."""
    as_sent: bool
    """Whether the token that came is the one that was sent."""


class Dialect(Protocol):
    """One way of asking."""

    @property
    def lacking(self) -> str:
        """What an answer that cannot be read has or lacks, after "answers"."""

    @property
    def advice(self) -> str:
        """How the server is to be run, up to its bound of likeliest tokens."""

    def request(self, ids: Sequence[int], model: str, k: int) -> tuple[str, Any]:
        """Path and body.

        Args:
            ids: the text's T tokens.
            model: its name at the server.
            k: likeliest tokens a place.

        Returns:
            A path behind ``/v1``, or ``/..`` and one beside it; and what is sent there.
        """

    def places(self, answer: Any, ids: Sequence[int]) -> list[Place]:
        """What is said of every token but the first.

        Raises:
            KeyError, IndexError, TypeError, ValueError: the answer says no such thing.
        """


@dataclass(frozen=True, slots=True)
class VLLM:
    """``prompt_logprobs: k`` gives, at every place but the first, the k likeliest
    tokens by id and the one that came."""

    lacking: str = "without prompt_logprobs, as llama.cpp's server does"
    advice: str = "serve the model with vLLM, and with --max-logprobs"

    def request(self, ids: Sequence[int], model: str, k: int) -> tuple[str, Any]:
        """See :meth:`Dialect.request`."""
        return "/completions", {
            "model": model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": k,
        }

    def places(self, answer: Any, ids: Sequence[int]) -> list[Place]:
        """See :meth:`Dialect.places`."""
        said = answer["choices"][0]["prompt_logprobs"][1:]
        every = []
        # One too many or too few is told by the count, not by an error here.
        for place, token in zip(said, [*ids[1:], *([-1] * len(said))], strict=False):
            came = place.get(str(token))
            every.append(
                Place(
                    likeliest={int(k): float(v["logprob"]) for k, v in place.items()},
                    came=0.0 if came is None else float(came["logprob"]),
                    spelled=None if came is None else came.get("decoded_token"),
                    as_sent=came is not None,
                )
            )
        return every


_ID = "token_id:"
"""Before an id, in vLLM's answers that were asked for ids in place of spellings."""


@dataclass(frozen=True, eq=False)  # without slots: caches its table
class Echo:
    """``echo: true, logprobs: k`` gives the prompt's tokens, and the k likeliest at
    every place but the first, by how they are spelled.

    A spelling that several tokens share names none of them: their mass is part of the
    rest. Of the token that came the probability is given at its place, whatever it is
    spelled like. vLLM, asked to, tells ids in place of spellings, and nothing is lost.
    """

    tokenizer: Any
    lacking: str = (
        "without logprobs of the prompt, as llama.cpp's server and transformers serve "
        "do"
    )
    advice: str = "serve the model with what takes echo beside logprobs"

    def request(self, ids: Sequence[int], model: str, k: int) -> tuple[str, Any]:
        """See :meth:`Dialect.request`."""
        return "/completions", {
            "model": model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0,
            "echo": True,
            "logprobs": k,
            "return_tokens_as_token_ids": True,
        }

    def places(self, answer: Any, ids: Sequence[int]) -> list[Place]:
        """See :meth:`Dialect.places`."""
        said = answer["choices"][0]["logprobs"]
        tokens = said["tokens"]
        if len(tokens) not in (len(ids), len(ids) + 1):  # the last one it has made up
            return [self._other()] * max(len(tokens) - 1, 0)
        parts = said["tokens"], said["token_logprobs"], said["top_logprobs"]
        every = zip(*(part[1 : len(ids)] for part in parts), ids[1:], strict=True)
        return [self._place(*of_one) for of_one in every]

    def _place(
        self, spelled: str, came: float, top: Mapping[str, float], sent: int
    ) -> Place:
        as_id = spelled.startswith(_ID)
        named = {self._id(text): float(value) for text, value in top.items()}
        return Place(
            likeliest={k: value for k, value in named.items() if k is not None},
            came=float(came),
            spelled=None if as_id else spelled,
            as_sent=self._id(spelled) == sent if as_id else True,
        )

    @staticmethod
    def _other() -> Place:
        return Place(likeliest={}, came=0.0, spelled=None, as_sent=False)

    def _id(self, spelled: str) -> int | None:
        if spelled.startswith(_ID):
            return int(spelled.removeprefix(_ID))
        return self._ids.get(spelled)

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Every spelling that is one token's alone."""
        count = len(self.tokenizer)
        spelled = self.tokenizer.batch_decode([[token] for token in range(count)])
        often = Counter(spelled)
        return {text: token for token, text in enumerate(spelled) if often[text] == 1}


@dataclass(frozen=True, slots=True)
class SGLang:
    """``return_logprob`` from the first token on gives triples of log-probability, id
    and spelling: of the prompt's tokens, and of the k likeliest at each place."""

    lacking: str = "without input_token_logprobs and input_top_logprobs"
    advice: str = "serve the model with SGLang, with logprobs"

    def request(self, ids: Sequence[int], model: str, k: int) -> tuple[str, Any]:
        """See :meth:`Dialect.request`."""
        return "/../generate", {
            "input_ids": list(ids),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": k,
            "return_text_in_logprobs": True,
        }

    def places(self, answer: Any, ids: Sequence[int]) -> list[Place]:
        """See :meth:`Dialect.places`."""
        said = answer["meta_info"]
        came, top = said["input_token_logprobs"][1:], said["input_top_logprobs"][1:]
        sent = [*ids[1:], *([-1] * len(came))]
        return [
            Place(
                likeliest={int(likely): float(x) for x, likely, _ in best},
                came=float(value),
                spelled=spelled,
                as_sent=int(token) == expected,
            )
            for (value, token, spelled), best, expected in zip(
                came, top, sent, strict=False
            )
        ]


def dialect_of(name: Name, tokenizer: Any) -> Dialect:
    """By its name.

    Args:
        name: in a config.
        tokenizer: of the served model.
    """
    if name == "echo":
        return Echo(tokenizer)
    return VLLM() if name == "vllm" else SGLang()
