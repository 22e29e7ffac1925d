"""What a step saves when each text is read by the one teacher that is chosen for it.

Three equal teachers, each drawn for a third of the texts, beside the same step in which
all three read all of them. Teachers are of the zoo's Qwen2 family, of twice its width
and depth and more than four times the student's parameters: where a student is as large
as its teachers, most of a step is the student's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from experiments.bench.measure import Bar, paired_ratio
from experiments.bench.step.costs import SPACES, Scene, drawn_model
from fuse.beforehand.choose import TextChoice
from fuse.routers.router import FixedRouter
from teacher.loading.models import LoadedModel

CHOSEN = 0.5
"""Most that a step may take of that which asks all."""
TEACHER = "qwen-code"


def measure_chosen(scale: str, rounds: int) -> list[Bar]:
    """Measure both spaces and print what a step is made of.

    Args:
        scale: of the zoo.
        rounds: pairs of steps.
    """
    return [_chosen(scale, space, rounds) for space in SPACES]


def _chosen(scale: str, space: str, rounds: int) -> Bar:
    scene = Scene(scale, space, larger=False, load=_loader(scale))
    scene.distiller.train()
    every, size = scene.maker, scene.maker.batch_size
    names = [teacher.name for teacher in scene.phase_teachers.panel.teachers]
    draw = TextChoice(FixedRouter(1, len(names)), "sampled", names, seed=0)
    some = replace(every, choose=draw)
    shares = draw(every.make(0).samples, range(size)).double().mean(0).tolist()

    def asking_all() -> None:
        scene.maker = every
        scene.whole()

    def asking_one() -> None:
        scene.maker = some
        scene.whole()

    name = f"one teacher of three a text / all three, meeting in {space}"
    ratio = paired_ratio(asking_one, asking_all, rounds)
    print(f"{name}: {ratio:.3f}")
    print("  texts of each: " + ", ".join(f"{share:.0%}" for share in shares))
    for what, maker in (("all", every), ("one", some)):
        scene.maker = maker
        parts = (f"{part} {share:.1%}" for part, share in scene.split().items())
        print(f"  {what}: {', '.join(parts)}", flush=True)
    return Bar(name, ratio, CHOSEN)


def _loader(scale: str) -> Callable[[str], LoadedModel]:
    def load(name: str) -> LoadedModel:
        if name == "student":
            return drawn_model(scale, name, larger=False)
        return drawn_model(scale, TEACHER, larger=True)

    return load
