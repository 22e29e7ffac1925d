"""The measurements behind ``match``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from experiments.assemble.outputs import build_term
from experiments.bench.measure import paired_ratio, seconds
from experiments.bench.step.costs import Scene
from experiments.config.parsing import load_yaml
from student.config import ChosenTerm
from student.objective import StepContext
from student.step.context import introduce
from teacher.loading.models import LoadedModel, load_model

_OFF = [
    "phase.multi_basic.teachers.min=1",
    *(
        f"phase.all.loss.{weight}=0"
        for weight in ("lambda_k", "lambda_v", "beta_cos", "gamma_kl")
    ),
]
_SITES = {
    "keys": "site: keys, distance: mse, projector: linear",
    "values": "site: values, distance: mse, projector: linear",
    "hidden": "site: hidden, distance: mse, projector: linear",
    "hidden, residual": "site: hidden, state: residual, distance: mse, "
    "projector: linear",
    "hidden, normed": "site: hidden, state: normed, distance: mse, projector: linear",
    "hidden, both": "site: hidden, state: both, distance: mse, projector: linear",
    "embeddings": "site: embeddings, distance: mse, projector: linear",
    "attention": "site: attention, distance: kl",
    "attention, each head": "site: attention, distance: kl, heads: groups",
    "logits": "site: logits, distance: mse",
}
_OF_HIDDEN = (
    "smooth_l1",
    "cosine",
    "gram",
    "cka",
    "correlation",
    "mmd",
    "contrastive",
    "spectrum",
)
_OF_ATTENTION = ("js", "wasserstein", "sparse", "squared")
_PROJECTORS = ("mlp", "orthogonal", "pca")


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Of the models and their texts."""

    scale: str
    model: str | None
    """Student and teacher; None: of the zoo."""
    batch_size: int
    tokens: int


def arms() -> Iterator[tuple[str, str, str]]:
    """Name, options of the term, and which teacher of the zoo."""
    for name, options in _SITES.items():
        yield f"site {name}", options, "student" if name == "logits" else "gpt2-prose"
    hidden = "site: hidden, projector: linear, distance:"
    for distance in _OF_HIDDEN:
        yield f"hidden by {distance}", f"{hidden} {distance}", "gpt2-prose"
    perturbed = f"{hidden} {{use: contrastive, negatives: perturbed}}"
    yield "hidden by contrastive, perturbed", perturbed, "gpt2-prose"
    transport = f"{hidden} transport, layers: [-1]"
    yield "hidden by transport, last layer", transport, "gpt2-prose"
    for distance in _OF_ATTENTION:
        options = f"site: attention, distance: {distance}"
        yield f"attention by {distance}", options, "gpt2-prose"
    for projector in _PROJECTORS:
        options = f"site: hidden, distance: mse, projector: {projector}"
        yield f"hidden through {projector}", options, "gpt2-prose"
    options = "site: hidden, distance: mse, projector: linear, layer_weights: gradient"
    yield "hidden, layers by gradient", options, "gpt2-prose"


def measure(size: Size, *, rounds: int, only: str = "") -> None:
    """Measure and print, an arm a line."""
    torch.set_num_threads(1)
    print(f"{'term':<36} step / bare models")
    for name, options, teacher in arms():
        if only not in name:
            continue
        scene = _scene(size, options, teacher)
        scene.distiller.train()
        ratio = paired_ratio(scene.whole, scene.bare, rounds)
        print(f"{name:<36} {ratio:.3f}", flush=True)


def measure_shares(size: Size, *, rounds: int) -> None:
    """Print what each distance and projector takes beside a plain step.

    A plain step is a whole one with the site compared by its first distance, ``mse``
    through ``linear`` or ``kl``. A term's share is its own work as a part of that:
    projector and distance of what is captured and aligned already, and the way back to
    the student's features. Its projector is not fitted, which costs no less. Medians of
    processor time; the plain step's are taken before the terms and after them.
    """
    torch.set_num_threads(1)
    print(f"{'term':<36} share of a plain step")
    for site, first in (("hidden", "site hidden"), ("attention", "site attention")):
        plain = _SITES[site]
        scene = _scene(size, plain, "gpt2-prose")
        scene.distiller.train()
        context = _cut(scene)
        steps = _times(scene.whole, rounds)
        spent = {
            name: statistics.median(_times(_alone(scene, options, context), rounds))
            for name, options, _ in arms()
            if name == first or name.startswith((f"{site} by", f"{site} through"))
        }
        step = statistics.median(steps + _times(scene.whole, rounds))
        for name, seconds_of_term in spent.items():
            print(f"{name:<36} {seconds_of_term / step:.1%}", flush=True)


def _times(work: Callable[[], object], rounds: int) -> list[float]:
    work()
    return [seconds(work) for _ in range(rounds)]


def _alone(scene: Scene, options: str, context: StepContext) -> Callable[[], object]:
    """A term's way there and back."""
    said = load_yaml(f"{{{options}}}", "options")
    registry = scene.registry
    term: Any = build_term(ChosenTerm(kind="match", options=said), registry)
    teachers = scene.phase_teachers.teaching.all_sizes
    introduce({"m": term}, scene.capture.sizes, teachers)
    return lambda: term(context).backward()


def _cut(scene: Scene) -> StepContext:
    """What terms read of a pass, the student's side of it without a way further."""
    made = scene.maker.make(0)
    context = scene.distiller.context(made.batch, made.views, made.rows)
    inside = {state: _leaves(sides) for state, sides in context.inside.items()}
    return replace(context, inside=inside, heads=_leaves(context.heads))


def _leaves(sides: Sequence[Any]) -> list[Any]:
    return [replace(x, student=x.student.detach().requires_grad_()) for x in sides]


def _scene(size: Size, options: str, teacher: str) -> Scene:
    settings = [*_OFF, f"loss.terms.m={{use: match, weight: 0.1, {options}}}"]
    given: dict[str, Any] = {}
    if size.model is not None:
        model, teacher = size.model, "teacher"
        given["load"] = lambda name: _loaded(model, name)
    return Scene(
        size.scale,
        "losses",
        larger=False,
        settings=settings,
        teachers=[teacher],
        batch_size=size.batch_size,
        tokens=size.tokens,
        texts=256,  # cut anew for every term
        **given,
    )


@cache
def _loaded(model: str, name: str) -> LoadedModel:
    role: Any = "student" if name == "student" else "teacher"
    return load_model(model, role=role)
