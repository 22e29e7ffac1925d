"""Contract of makers of students: a tiny model is cut, twice, and read from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from plugins.contracts.models.answers import student_maker_problem
from plugins.promise import Promise, problem
from teacher.making.base import Made, Sample

LAYERS = 4
ROWS = 64
"""Of the vocabulary."""


def student_maker(factory: Callable[..., Any]) -> Iterator[Promise]:
    """A maker is asked for a student of a Llama of four layers with random weights."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


@dataclass(frozen=True)
class _Subject:
    """What is tried."""

    factory: Callable[..., Any]

    @cached_property
    def source(self) -> Any:
        """The model that students are made of."""
        return small_model()

    def make(self) -> Made:
        """A student, by a maker of its own."""
        maker = self.factory()
        made: Made = maker(self.source, _sample() if maker.needs_sample else None)
        return made

    @cached_property
    def made(self) -> Made:
        """The first."""
        return self.make()


def _says_what_it_needs(subject: _Subject) -> str:
    needs = getattr(subject.factory(), "needs_sample", None)
    return problem(
        not isinstance(needs, bool), f"has needs_sample = {needs!r}; say True or False"
    )


def _says_where_layers_are_from(subject: _Subject) -> str:
    return student_maker_problem(subject.made, LAYERS)


def _reads(subject: _Subject) -> str:
    logits = _logits(subject.made.model)
    finite = bool(torch.isfinite(logits).all())
    whole = tuple(logits.shape[-1:]) == (ROWS,)
    return problem(not finite or not whole, "gives no finite logits of all tokens")


def _leaves_the_source(subject: _Subject) -> str:
    before = {k: v.clone() for k, v in subject.source.state_dict().items()}
    made = subject.make()
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(1.0)
    now = subject.source.state_dict()
    changed = [
        k for k, v in before.items() if k not in now or not torch.equal(v, now[k])
    ]
    return problem(
        changed, f"{changed[:1]} of the source changes, at once or with the student"
    )


def _same_again(subject: _Subject) -> str:
    first, second = subject.make(), subject.make()
    same = first.layers == second.layers and torch.equal(
        _logits(first.model), _logits(second.model)
    )
    return problem(not same, "makes another student of the same model")


def _loads_from_files(subject: _Subject) -> str:
    from transformers import AutoModelForCausalLM

    model = subject.made.model
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        auto: Any = AutoModelForCausalLM
        again, info = auto.from_pretrained(folder, output_loading_info=True)
    off = [key for name in ("missing_keys", "unexpected_keys") for key in info[name]]
    if off:
        return f"its files and its config differ in {', '.join(sorted(off)[:3])}"
    differs = not torch.equal(_logits(model), _logits(again.eval()))
    return problem(differs, "says something else once it is read from its files")


_PROMISES = (
    ("says whether it needs a sample", _says_what_it_needs),
    ("says where each layer of the student is from", _says_where_layers_are_from),
    ("makes a model that reads", _reads),
    ("leaves the source as it is", _leaves_the_source),
    ("makes the same student again", _same_again),
    ("makes what plain transformers loads whole", _loads_from_files),
)


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    logits: Tensor = model(input_ids=_sample().batches[0][0]).logits
    return logits


def _sample() -> Sample:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(ROWS, (2, 12), generator=generator)
    return Sample(((ids, torch.ones_like(ids, dtype=torch.bool)),))


def small_model() -> Any:
    """A Llama of four layers with random weights, the same each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return LlamaForCausalLM(config).eval().requires_grad_(False)
