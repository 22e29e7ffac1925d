"""How much of a step is spent waiting for a served teacher, by requests in flight."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from experiments.assemble.data import Encoder
from experiments.bench.school import OUTPUTS_ALONE, School
from experiments.bench.sources.server import NAME
from experiments.bench.step.costs import TOKENS, drawn_model, full_texts
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from experiments.sources.making import Making
from experiments.sources.named import source_of

IN_FLIGHT = (1, 8, 32)
TEXTS = 32
"""Of a step: as many as are in flight at most."""


@contextmanager
def served(model: str, delay_ms: float) -> Iterator[str]:
    """The address of a server of its own process."""
    words = [sys.executable, "-m", "experiments.bench.sources.server"]
    process = subprocess.Popen(
        [*words, model, str(delay_ms)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the server of {model} did not start; see above")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


class Waiting(School):
    """A student whose teacher is asked over HTTP, and never kept."""

    def __init__(self, scale: str, model: str, url: str, requests: int) -> None:
        """Connect.

        Args:
            scale: of the zoo, from which the student is.
            model: that is served.
            url: where.
            requests: in flight at once.
        """
        options = {"tokenizer": model, "served_as": NAME, "requests": requests}
        entry = {"model": f"server:{url}", "options": options}
        config = load_config(
            {"teachers": {"far": entry}, "phases": ["single"]},
            ["output.projected_kl=1", *OUTPUTS_ALONE],
        )
        registry = load_registry(config)
        student = drawn_model(scale, "student", False)
        encode = Encoder(student.tokenizer, TOKENS)
        making = Making(
            name="far",
            entry=config.teachers["far"],
            device=torch.device("cpu"),
            make_student=lambda folder, seed: student.model,
            student_tokenizer=student.tokenizer,
        )
        teacher: Any = source_of(config, "far", registry).open(making)
        object.__setattr__(teacher, "kept", _Nothing())
        self.waited = 0.0
        each = teacher.client.each

        def timed(*given: Any) -> Any:
            started = time.perf_counter()
            answers = each(*given)
            self.waited += time.perf_counter() - started
            return answers

        teacher.client.each = timed
        super().__init__(
            resolve_phase(config, "single", builtin_presets()),
            registry,
            student=student,
            teachers={"far": teacher},
            encode=encode,
            samples=full_texts(encode, TEXTS),
            batch=TEXTS,
        )

    def share(self) -> tuple[float, float]:
        """Of one step: the share spent waiting, and its seconds."""
        self.waited, started = 0.0, time.perf_counter()
        self.step()
        seconds = time.perf_counter() - started
        return self.waited / seconds, seconds


class _Nothing:
    """Keeps no answer, so that every step asks."""

    folder = Path()

    def get(self, ids: Any) -> None:
        """Never there."""

    def put(self, ids: Any, named: Any) -> None:
        """Forgotten."""


def wait(scale: str, model: str, rounds: int, delay_ms: float) -> None:
    """Measure and print, alternating between numbers in flight."""
    torch.set_num_threads(1)
    with served(model, delay_ms) as url:
        classes = {n: Waiting(scale, model, url, n) for n in IN_FLIGHT}
        shares: dict[int, list[tuple[float, float]]] = {n: [] for n in IN_FLIGHT}
        for _ in range(rounds):
            for requests, school in classes.items():
                shares[requests].append(school.share())
    print(f"{model} served, answers {delay_ms:g} ms late, {TEXTS} texts a step")
    print("in flight   waiting   seconds a step")
    for requests, every in shares.items():
        share, seconds = (statistics.median(x) for x in zip(*every, strict=True))
        print(f"{requests:>9} {share:>9.1%} {seconds:>16.2f}")
