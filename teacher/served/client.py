"""Ask an inference server how likely the tokens of a text are.

What is sent, and what is read of the answer, is the server's dialect, see
:mod:`teacher.served.dialects`. What is tried again, and after what pause, is said by
the ``Retry`` of urllib3, which sends the request: it reads a server's ``Retry-After``
and tells a broken connection from a status, where a library that calls a function
again (stamina, tenacity) would be one more dependency and leave both to us.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import urllib3
from urllib3.util import Retry

from align.errors import InputError, MachineError
from align.tokens.named_head import LEAST_REST, NONE, NamedTokens
from teacher.served.dialects import Dialect, Place

LARGEST = 2**28
"""Bytes of an answer: 200,000 tokens with 20 of the likeliest, at 60 bytes each."""
_PIECE = 2**16
"""Bytes of it that are read at once."""
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""What a server says that may answer later."""


class ServerGoneError(MachineError):
    """A server did not answer within the budget of time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long an answer is waited for."""

    budget: float
    """Seconds for one text, all attempts and pauses together, > 0."""
    answer: float = 60.0
    """Seconds for one attempt, > 0."""


class Client:
    """One model of one server."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        top_k: int,
        requests: int,
        patience: Patience,
        dialect: Dialect,
        key_variable: str = "",
    ) -> None:
        """Ask nothing yet.

        Args:
            url: up to and with ``/v1``.
            model: its name at the server.
            dialect: how it is asked.
            top_k: likeliest tokens a place, >= 1.
            requests: most in flight at once, >= 1.
            patience: how long an answer is waited for.
            key_variable: the environment variable that holds the key; "" sends none.
                The key itself is kept nowhere and part of no message.
        """
        self.url, self.model, self.top_k = url.rstrip("/"), model, top_k
        self._patience, self._key = patience, key_variable
        self._dialect = dialect
        self._pool = urllib3.PoolManager(maxsize=requests, block=True)
        self._workers = ThreadPoolExecutor(requests, "server")

    def models(self) -> list[str]:
        """The names of the server's models."""
        data = self._call("GET", "/models", None).get("data")
        if not isinstance(data, list):
            raise InputError(f"{self.url}/models lists no models; check the address")
        return [str(entry.get("id")) for entry in data if isinstance(entry, Mapping)]

    def each(
        self,
        answer: Callable[[Sequence[int]], NamedTokens],
        texts: Sequence[Sequence[int]],
    ) -> list[NamedTokens]:
        """What a function says of every text, several at once."""
        return list(self._workers.map(answer, texts))

    def ask(self, ids: Sequence[int]) -> NamedTokens:
        """How likely the tokens of a text are.

        Raises:
            ServerGoneError: no whole answer came within the budget of time.
            InputError: the server refuses, or answers something else.
        """
        return named_of(self._places(ids), ids, self.top_k)

    def decoded(self, ids: Sequence[int]) -> list[str | None]:
        """What the server's tokenizer spells of every token but the first."""
        return [place.spelled for place in self._places(ids)]

    def _places(self, ids: Sequence[int]) -> list[Place]:
        dialect = self._dialect
        path, body = dialect.request(ids, self.model, self.top_k)
        answer = self._call("POST", path, body)
        try:
            places = dialect.places(answer, ids)
        except (KeyError, IndexError, TypeError, ValueError):
            raise InputError(
                f"{self.url}{path} answers {dialect.lacking}; {dialect.advice} of at "
                f"least {self.top_k}, or choose another options.dialect"
            ) from None
        known = sum(place.as_sent for place in places)
        if len(places) != len(ids) - 1 or known != len(places):
            raise InputError(
                f"{self.url} was sent {len(ids)} tokens and tells of "
                f"{len(places) + 1}, {known} of them as sent: model "
                f"{self.model!r} has another tokenizer there; name the right model, "
                "or its tokenizer by options.tokenizer"
            )
        return places

    def _call(self, method: str, path: str, body: object) -> dict[str, Any]:
        """One request, again until it is answered or the budget is spent."""
        deadline = time.monotonic() + self._patience.budget
        headers = {"Content-Type": "application/json"}
        if self._key and os.environ.get(self._key):
            headers["Authorization"] = f"Bearer {os.environ[self._key]}"
        data = None if body is None else json.dumps(body)
        while True:
            try:
                answer = self._pool.request(
                    method,
                    self._address(path),
                    body=data,
                    headers=headers,
                    timeout=self._patience.answer,
                    retries=_Until(deadline=deadline),
                    redirect=False,  # texts go to the address that was given
                    preload_content=False,
                )
                content = self._content(answer, path)
                if answer.status != 200:
                    raise InputError(
                        f"{self.url}{path} answers {answer.status}: "
                        f"{_reason(content)}; check the address, options.served_as "
                        "and the key"
                    )
                whole = json.loads(content.decode())
                break
            except urllib3.exceptions.MaxRetryError as error:
                raise self._gone(error.reason) from None
            except RecursionError:
                raise InputError(
                    f"{self.url}{path} answers with JSON in too many levels; check the "
                    "address"
                ) from None
            except (
                json.JSONDecodeError,
                UnicodeDecodeError,
                urllib3.exceptions.HTTPError,
            ) as error:
                # half an answer, though called whole
                if time.monotonic() >= deadline:
                    raise self._gone(error) from None
                time.sleep(_FIRST_PAUSE)
        if not isinstance(whole, dict):
            raise InputError(
                f"{self.url}{path} answers with a {type(whole).__name__}; check the "
                "address"
            )
        return whole

    def _content(self, answer: urllib3.BaseHTTPResponse, path: str) -> bytes:
        """All of an answer; no server decides how much memory or time that takes.

        A timeout of urllib3 is of each read: of a server that sends a byte now and then
        it never comes.
        """
        until = time.monotonic() + self._patience.answer
        content = bytearray()
        while piece := answer.read1(_PIECE, decode_content=True):
            content += piece
            if len(content) > LARGEST:
                answer.close()
                raise InputError(
                    f"{self.url}{path} answers with more than {LARGEST:,} bytes; check "
                    "the address, or lower options.top_k or data.max_length"
                )
            if time.monotonic() > until:
                answer.close()
                raise urllib3.exceptions.TimeoutError(
                    f"an answer came for more than {self._patience.answer:g} s"
                )
        answer.release_conn()
        return bytes(content)

    def _address(self, path: str) -> str:
        """Of a path behind ``/v1``, or of one beside it that begins with ``/..``."""
        if path.startswith("/.."):
            return self.url.removesuffix("/v1") + path.removeprefix("/..")
        return self.url + path

    def _gone(self, reason: object) -> ServerGoneError:
        return ServerGoneError(
            f"{self.url} gave no whole answer within {self._patience.budget:g} s "
            f"({type(reason).__name__}: {reason}); see to the server and run the same "
            "command again, which asks for nothing that was answered, or wait longer "
            "with options.budget_s"
        )


_FIRST_PAUSE = 0.1


class _Until(Retry):
    """Tries again, after longer and longer pauses, until a moment."""

    def __init__(self, *, deadline: float, **options: Any) -> None:
        usual = {
            "total": None,
            "allowed_methods": None,
            "status_forcelist": _TRY_AGAIN,
            "backoff_factor": _FIRST_PAUSE,
            "backoff_max": 10.0,
            "backoff_jitter": _FIRST_PAUSE,
            "raise_on_status": True,
        }
        super().__init__(**{**usual, **options})
        self.deadline = deadline

    def new(self, **options: Any) -> _Until:
        return super().new(deadline=self.deadline, **options)

    @property
    def _left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def get_backoff_time(self) -> float:
        return min(super().get_backoff_time(), self._left)

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        """What the server asks for, within the budget."""
        asked = super().get_retry_after(response)
        return None if asked is None else min(asked, self._left)

    def increment(  # type: ignore[override]  # all it is given is passed on
        self, *arguments: Any, **options: Any
    ) -> Retry:
        grown = super().increment(*arguments, **options)
        if time.monotonic() >= self.deadline:
            error = options.get("error") or TimeoutError("the budget is spent")
            pool, url = options.get("_pool"), str(options.get("url"))
            raise urllib3.exceptions.MaxRetryError(pool, url, error)  # type: ignore[arg-type]
        return grown


def named_of(places: Sequence[Place], ids: Sequence[int], top_k: int) -> NamedTokens:
    """What a server says of a text, as it is kept.

    Args:
        places: of every token but the first.
        ids: the text's T tokens.
        top_k: k.
    """
    likeliest = torch.full((len(ids), top_k), NONE)
    log_probs = torch.zeros(len(ids), top_k)
    came, rest = torch.zeros(len(ids)), torch.full((len(ids),), LEAST_REST)
    for at, place in enumerate(places):
        said = dict(place.likeliest)
        best = sorted(said, key=lambda token: -said[token])[:top_k]
        likeliest[at, : len(best)] = torch.tensor(best, dtype=torch.long)
        log_probs[at, : len(best)] = torch.tensor([said[token] for token in best])
        came[at] = said[ids[at + 1]] = place.came
        named = {*best, ids[at + 1]}
        left = 1 - torch.tensor([said[token] for token in named]).double().exp().sum()
        rest[at] = left.clamp_min(0).log().clamp_min(LEAST_REST)
    return NamedTokens(ids=likeliest, log_probs=log_probs, came=came, rest=rest)


def _reason(data: bytes) -> str:
    """What an error says, shortly."""
    text = data.decode("utf-8", "replace")
    try:
        answer = json.loads(text)
        error = answer.get("error", answer)
        text = error.get("message", text) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        pass
    return " ".join(str(text).split())[:200]
