"""Stores of made-up keys and values, made as an array job makes them."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from align.tokens.named_head import NamedTokens
from teacher.store import Encoding, Plan, StoreWriter, open_store
from teacher.store.encoding import measure_constants
from teacher.store.manifest import OutputShape, Sample, Shape
from teacher.store.packing import StoredSample
from teacher.store.reader import all_origins, text_digest

LAYERS, HEADS, K_WIDTH, V_WIDTH = 3, 2, 8, 6
VOCABULARY, TOP_K = 37, 5
OUTPUTS = {
    "version": 3,
    "outputs": OutputShape(vocabulary=VOCABULARY, top_k=TOP_K, log_probs="int8"),
}
"""What a plan says of a store that also holds next-token outputs."""


def text(number):
    return f"text {number}"


@cache
def stored(number):
    """Deterministic KV and outputs of one text, 4 to 10 tokens."""
    tokens = 4 + number * 5 % 7
    generator = torch.Generator().manual_seed(number)
    k = torch.randn(LAYERS, tokens, K_WIDTH, generator=generator)
    v = torch.randn(LAYERS, tokens, V_WIDTH, generator=generator)
    logits = 2 * torch.randn(tokens, VOCABULARY, generator=generator)
    named = NamedTokens.of(logits, ids(number), TOP_K)
    return StoredSample(k, v, all_origins(tokens), number / 2, named=named)


def ids(number):
    """The tokens of that text."""
    return torch.arange(4 + number * 5 % 7) * 3 % VOCABULARY


@dataclass
class Maker:
    """Makes one store in as many processes as a test likes."""

    path: Path
    plan: Plan

    def open(self) -> StoreWriter:
        every = [stored(n) for n in range(self.plan.samples)]
        constants = {}
        if self.plan.encoding.name not in ("float32", "bfloat16"):
            for part in ("k", "v"):
                joined = torch.cat([getattr(s, part)[:, 1:] for s in every], 1)
                measured = measure_constants(joined, self.plan.encoding.rank)
                constants[f"{part}.mean"] = measured.mean
                if measured.basis is not None:
                    constants[f"{part}.basis"] = measured.basis
        return open_store(self.path, self.plan, constants or None)

    def shard(self, writer: StoreWriter, number: int) -> bool:
        """Make one shard, unless it is there or being made."""
        with writer.claim(number) as ours:
            if not ours:
                return False
            span = self.plan.span(number)
            return writer.write(
                number, span.start, [self._one(writer, n) for n in span]
            )

    def run(self, numbers=None) -> None:
        """One task: its shards, and the manifest if nothing is missing."""
        writer = self.open()
        for number in range(self.plan.shards) if numbers is None else numbers:
            self.shard(writer, number)
        if not writer.missing():
            writer.finish()

    def _one(self, writer, number):
        kv = stored(number)
        layers = self.plan.shape.layers
        kv = replace(kv, k=kv.k[:layers], v=kv.v[:layers])
        sample = Sample(
            tokens=kv.k.shape[1],
            text_sha256=text_digest(text(number)),
            id=f"a:{number}",
        )
        return sample, writer.encode(kv)


def make_plan(**changes) -> Plan:
    values = {
        "form": "raw",
        "shape": Shape(layers=LAYERS, heads=HEADS, k_width=K_WIDTH, v_width=V_WIDTH),
        "encoding": Encoding(name="float32"),
        "fingerprint": {"model": "m", "revision": "abc"},
        "samples": 11,
        "shard_samples": 4,
    }
    return Plan(**(values | changes))


@pytest.fixture
def maker(tmp_path):
    """A maker of a store of 11 texts in 3 shards; keywords change its plan."""

    def make(name="kv", **changes) -> Maker:
        return Maker(tmp_path / name, make_plan(**changes))

    return make


def visible(folder: Path) -> dict[str, bytes]:
    """Every file but locks and other hidden ones, with its bytes."""
    return {
        file.name: file.read_bytes()
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".")
    }
