"""Teachers behind an inference server: ``server:http://host:8000/v1``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from align.errors import InputError
from align.support.field_types import AtLeastOne, Positive
from align.views import FORETOLD, OUTPUTS, Teacher
from teacher.loading.model_config import read_config
from teacher.loading.tokenizer import load_tokenizer
from teacher.names import model_source
from teacher.served.client import Client, Patience
from teacher.served.dialects import Name, dialect_of
from teacher.served.kept import KeptAnswers
from teacher.served.teacher import ServedTeacher
from teacher.sources.base import Cost, Opening, TeacherSource

USUAL: Name = "vllm"


class Server(TeacherSource):
    """A model that vLLM, SGLang or their like serve: its likeliest next tokens."""

    example = "http://127.0.0.1:9/v1"
    opens_example = False
    gives = frozenset({OUTPUTS, FORETOLD})
    cost: Cost = "request"

    def __init__(
        self,
        rest: str,
        *,
        tokenizer: str = "",
        served_as: str = "",
        top_k: AtLeastOne = 20,
        requests: AtLeastOne = 8,
        budget_s: Positive = 300.0,
        answer_s: Positive = 60.0,
        cache: str = "served",
        offline: bool = False,
        key_variable: str = "",
        dialect: Name = USUAL,
    ) -> None:
        """Take the address and how it is asked.

        Args:
            rest: the address, up to and with ``/v1``.
            tokenizer: the folder or hub name of the served model: of it the tokenizer
                and ``config.json`` are read here, no weights.
            served_as: the model's name at the server; "" means ``tokenizer``.
            top_k: likeliest tokens a place; vLLM allows its ``--max-logprobs``.
            requests: most in flight at once.
            budget_s: seconds for a text, with all attempts and pauses.
            answer_s: seconds for one attempt.
            cache: folder of kept answers.
            offline: answer from that folder alone.
            key_variable: environment variable that holds the server's key.
            dialect: how it is asked: vllm (``prompt_logprobs``), sglang
                (``/generate``) or echo (``echo`` with ``logprobs``).

        Raises:
            InputError: no address, or no tokenizer.
        """
        super().__init__(rest)
        address = urlsplit(rest)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError(f"{rest!r} is no address; give server:http://HOST:PORT/v1")
        if address.username or address.password:
            raise InputError(
                "an address with a name and a password ends up in logs; name an "
                "environment variable with the key in options.key_variable"
            )
        self._tokenizer, self._served_as = tokenizer, served_as or tokenizer
        self._top_k, self._requests = top_k, requests
        self._patience = Patience(budget=budget_s, answer=answer_s)
        self._cache, self._offline = Path(cache), offline
        self._key, self._dialect = key_variable, dialect

    @property
    def like(self) -> str | None:
        """The served model; None where ``tokenizer`` does not say it."""
        return self._tokenizer or None

    @property
    def says(self) -> str:
        """Whom it asks."""
        where = f"kept in {self._cache}" if self._offline else f"asked of {self.rest}"
        return (
            f"the {self._top_k} likeliest next tokens of {self._served_as}, {where}, "
            f"up to {self._requests} texts at once"
        )

    def fingerprint(self) -> Mapping[str, str]:
        """What is asked; the address may be another's that serves the same model."""
        asked = {"served_as": self._served_as, "top_k": str(self._top_k)}
        if self._dialect != USUAL:
            asked["dialect"] = self._dialect
        return asked

    def open(self, opening: Opening) -> Teacher:
        """Read tokenizer and config, and compare both with the server."""
        model = self._model()
        if self._key and not os.environ.get(self._key) and not self._offline:
            raise InputError(
                f"the environment has no {self._key}, in which "
                f"teachers.{opening.name}.options.key_variable expects the key"
            )
        config, _ = read_config(model)
        hub = {"trust_remote_code": False}
        tokenizer = load_tokenizer(model, model_source(model), hub)
        client = None
        if not self._offline:
            client = Client(
                self.rest,
                self._served_as,
                top_k=self._top_k,
                requests=self._requests,
                patience=self._patience,
                dialect=dialect_of(self._dialect, tokenizer),
                key_variable=self._key,
            )
        size = int(config.get_text_config().vocab_size)
        teacher = ServedTeacher(
            name=opening.name,
            client=client,
            kept=KeptAnswers(self._cache, " ".join(self.fingerprint().values())),
            tokenizer=tokenizer,
            size=size,
            top_k=min(self._top_k, size),
            family=str(config.model_type),
        )
        teacher.check()
        return teacher

    def _model(self) -> str:
        if not self._tokenizer:
            raise InputError(
                "nothing is known of the served model; give the folder or hub name "
                "whose tokenizer it has in options.tokenizer"
            )
        return self._tokenizer
