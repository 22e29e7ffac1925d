"""Contract of sources of teachers: opened over a tiny model, asked, moved.

The models that an ``Opening`` gives here have random weights, whatever is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.tokenizer_align import CausalCharIoUAligner, encode_batch
from align.views import OUTPUTS, LinearHead, Teacher
from plugins.contracts.models.answers import teacher_source_problem
from plugins.promise import Promise, problem
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import LoadedModel
from teacher.panel import TeacherPanel
from teacher.sources.base import EVERYTHING, PhaseStart, TeacherSource
from teacher.store.facts import StoreFacts
from teacher.trained_teacher import TrainedTeacher

TEXTS = ("One teacher says a little.", "def ask(batch): return batch")
STEPS = 12
"""How often one that moves is moved, since it may move seldom."""


def teacher_source(factory: Callable[..., Any]) -> Iterator[Promise]:
    """A source is made of its ``example``, and opened twice."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


@dataclass(frozen=True)
class _Opening:
    """Gives the same small model by every name."""

    name: str = "aunt"
    learner: Any = field(default_factory=lambda: small_teacher("student", seed=2))
    """The student; its weights are other ones after every step."""

    def load(self, model: str) -> Teacher:
        return small_teacher(self.name, seed=1)

    def student(
        self, folder: Path | None = None, *, seed: int | None = None
    ) -> Teacher:
        return small_teacher(self.name, seed=2 if folder is None else 3)

    def stored(self, facts: StoreFacts) -> Teacher:
        return small_teacher(self.name, seed=1)

    def itself(self) -> Teacher:
        learner = self.learner
        return TrainedTeacher(self.name, learner.loaded, learner.capture)

    def stepped(self, step: int) -> Any:
        """The student after an optimiser step."""
        after: Any = small_teacher("student", seed=step).loaded.model
        model = self.learner.loaded.model
        model.load_state_dict(after.state_dict())
        return model


_START = PhaseStart(
    earlier={"before": Path("before")},
    kept=["before"],
    begins=None,
    texts_per_step=4,
    texts=40,
)


@dataclass(frozen=True)
class _Subject:
    """What is tried: a factory, and what its example makes."""

    factory: Callable[..., Any]

    @property
    def made(self) -> Any:
        """A source of its own."""
        return self.factory(getattr(self.factory, "example", TeacherSource.example))

    @cached_property
    def openable(self) -> bool:
        """Whether its example can be opened here."""
        return bool(getattr(self.factory, "opens_example", True))

    def teacher(self, opening: _Opening | None = None) -> tuple[Any, Any]:
        """A source, and the teacher of a phase that it makes."""
        source, opening = self.made, opening or _Opening()
        teacher = source.open(opening)
        return source, source.begin(opening, _START) or teacher


def _says_what_it_is(subject: _Subject) -> str:
    return teacher_source_problem(subject.made)


def _same_again(subject: _Subject) -> str:
    first, second = subject.made.fingerprint(), subject.made.fingerprint()
    plain = isinstance(first, Mapping) and all(
        isinstance(text, str) for pair in first.items() for text in pair
    )
    if not plain:
        return f"its fingerprint is {first!r}; give texts by name"
    return problem(first != second, f"is {first} at first and {second} then")


def _by_its_name(subject: _Subject) -> str:
    if not subject.openable:
        return ""
    _, teacher = subject.teacher()
    missing = [n for n in dir(Teacher) if n[0] != "_" and not hasattr(teacher, n)]
    if missing:
        return f"its teacher has no {', '.join(missing)}"
    return problem(teacher.name != "aunt", f"is called {teacher.name!r}, not 'aunt'")


def _lacks_the_rest(subject: _Subject) -> str:
    if not subject.openable:
        return ""
    source, teacher = subject.teacher()
    silent = sorted(EVERYTHING - source.gives - set(teacher.lacks))
    return problem(silent, f"neither gives nor lacks {', '.join(silent)}")


def _says_the_same(subject: _Subject) -> str:
    if not subject.openable:
        return ""
    (_, first), (_, second) = subject.teacher(), subject.teacher()
    answer = _answer(first)
    return problem(
        not _equal(answer, _answer(first)) or not _equal(answer, _answer(second)),
        "says something else of the same texts when asked, or made, again",
    )


def _moves_as_it_says(subject: _Subject) -> str:
    if not subject.openable:
        return ""
    opening = _Opening()
    source, teacher = subject.teacher(opening)
    before = _answer(teacher)
    for step in range(1, STEPS + 1):
        source.after_step(teacher, opening.stepped(step), step)
    moved = not _equal(before, _answer(teacher))
    if moved == source.moves:
        return ""
    does = "says something else" if moved else "says the same"
    return f"has moves = {source.moves} and {does} after {STEPS} steps of the student"


def _remembers_in_its_model(subject: _Subject) -> str:
    if not (subject.openable and subject.made.moves):
        return ""
    opening, other = _Opening(), _Opening()
    (source, teacher), (again, resumed) = map(subject.teacher, (opening, other))
    for step in range(1, STEPS + 1):
        student, same = opening.stepped(step), other.stepped(step)
        if step == STEPS // 2:
            resumed.loaded.model.load_state_dict(teacher.loaded.model.state_dict())
        source.after_step(teacher, student, step)
        if step >= STEPS // 2:
            again.after_step(resumed, same, step)
    differs = not _equal(_answer(teacher), _answer(resumed))
    return problem(differs, "goes on otherwise from its model's weights alone")


_PROMISES = (
    ("says what it gives, costs and whether it moves", _says_what_it_is),
    ("has the same fingerprint when it is made again", _same_again),
    ("opens a whole teacher, of the name that it is given", _by_its_name),
    ("gives what its teacher does not lack", _lacks_the_rest),
    ("has teachers that say the same of the same texts", _says_the_same),
    ("moves after steps, or stands still, as it says", _moves_as_it_says),
    ("remembers nothing beside the weights of its model", _remembers_in_its_model),
)


def _answer(teacher: Teacher) -> list[Tensor]:
    """What a teacher says of two texts: all that it can."""
    batch = encode_batch(_tokenizer(), TEXTS)
    aligner = CausalCharIoUAligner()
    speaks = () if OUTPUTS in teacher.lacks else (teacher.name,)
    panel = TeacherPanel([teacher], aligner, aligner, outputs=speaks)
    (view,) = panel(batch)
    parts = [] if view.kv is None else [view.kv.k, view.kv.v]
    if view.output is not None:
        parts.append(view.output.hidden)
        if isinstance(view.output.head, LinearHead):
            parts.append(view.output.head.weight)
    return [tensor.detach().clone() for tensor in parts]


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def small_teacher(name: str, seed: int) -> LiveTeacher:
    """One layer of random weights that reads bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config).eval().requires_grad_(False)
    loaded = LoadedModel(model, _tokenizer(), "decoder", name)
    return LiveTeacher(name, loaded, KVCapture(model))


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0} | {char: i + 1 for i, char in enumerate(alphabet)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>"
    )
