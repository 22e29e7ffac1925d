"""Students that are cut and healed, or rounded, each arm trained once and measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.tokens.batch import TokenBatch
from experiments.bench.quality.train import bits_by_text
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.making.make import Recipe, make_student
from experiments.record.history import read_json, write_json

WHOLE = "whole"
"""What the source is called as a teacher."""
ITSELF = {"itself": {"model": "checkpoint:-1"}}
"""The unrounded self as a teacher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bed:
    """What all arms share."""

    source: str
    """The model that is cut and rounded."""
    layers: int
    """Kept of its own; 0: half."""
    steps: int
    """Of healing."""
    rounding_steps: int
    """Of training with rounded weights."""
    folder: Path
    """Of runs and results."""
    bits: int = 4
    """Of a rounded weight."""
    more: tuple[str, ...] = ()
    """Settings of every arm."""

    @property
    def cut(self) -> Path:
        """The source without half of its layers."""
        return self.folder / "cut"

    def tree(self, student: str, steps: int) -> dict[str, Any]:
        """The settings of every arm."""
        return {
            "run": {"dir": str(self.folder / "runs")},
            "student": {"model": student, "export_dtype": "float32"},
            "data": {"train": ["zoo"], "max_length": 128, "eval_samples": 64},
            "phases": ["single"],
            "align": {"layer_mapping_strategy": "origin"},
            "phase": {"single": {"fuse": {"space": "losses"}}},
            "train": {
                "engine": "torch",
                "threads": 1,
                "steps": steps,
                "batch_size": 4,
                "learning_rate": 1e-3,
                "warmup_steps": 10,
                "checkpoint_every": 50,
            },
            "loss": {
                "lambda_k": 1,
                "lambda_v": 1,
                "gamma_kl": 0,
                "terms": {
                    "hidden": {"use": "match", "site": "hidden", "distance": "cosine"}
                },
            },
            "output": {"kd": 1},
            "baselines": {"ce_only": False, "single_teachers": "none"},
            "samples": {"prompts": 0},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One student that is trained."""

    name: str
    steps: int
    teachers: Mapping[str, Any] = field(default_factory=dict)
    """None: next-token loss alone."""
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an arm came to."""

    bits: float
    """Held-out bits per character, mean over domains."""
    seconds: float
    """Of the processor, loading and measuring included; of all calls that it took."""
    steps: int


ALONE = (
    "phase.all.teachers.min=0",
    "align.layer_mapping_strategy=ratio",
)
"""Settings of an arm without teachers."""
OUTPUTS_ALONE = (
    "loss.lambda_k=0",
    "loss.lambda_v=0",
    "loss.beta_cos=0",
    "loss.terms={}",
    "align.layer_mapping_strategy=ratio",
)


def healing(bed: Bed) -> list[Arm]:
    """The cut under its source, alone, and its size from random weights."""
    whole = {WHOLE: {"model": bed.source}}
    return [
        Arm(name="healed", steps=bed.steps, teachers=whole),
        Arm(name="ce", steps=bed.steps, settings=ALONE),
        Arm(
            name="random",
            steps=bed.steps,
            teachers=whole,
            settings=("student.init=fresh",),
        ),
    ]


def longer(bed: Bed, healed: Outcome, alone: Outcome) -> Arm:
    """The cut alone for as many processor seconds as it took to be healed."""
    steps = max(1, round(bed.steps * healed.seconds / alone.seconds))
    return Arm(name="ce-longer", steps=steps, settings=ALONE)


def rounding(bed: Bed) -> list[Arm]:
    """The source trained on plainly, and rounded under its unrounded self."""
    student, steps = f"student.model={bed.source}", bed.rounding_steps
    rate = "train.learning_rate=3e-4"
    transform = f"student.transform={{fake_quant: {{bits: {bed.bits}}}}}"
    return [
        Arm(name="plain", steps=steps, settings=(student, rate, *ALONE)),
        Arm(
            name=f"qat-{bed.bits}",
            steps=steps,
            teachers=ITSELF,
            settings=(student, rate, transform, *OUTPUTS_ALONE),
        ),
    ]


def make_cut(bed: Bed) -> None:
    """Leave out the layers, once."""
    if bed.cut.is_dir():
        return
    bed.folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"rule": "importance"}
    if bed.layers:
        options["keep"] = bed.layers
    recipe = Recipe(source=bed.source, use="layers", options=options)
    make_student(recipe, load_registry(), bed.cut)


def result_of(bed: Bed, name: str) -> Outcome | None:
    """What an arm came to; None where it is not done."""
    file = bed.folder / f"{name}.json"
    return Outcome(**read_json(file)) if file.is_file() else None


def train(bed: Bed, arm: Arm) -> Outcome:
    """Train an arm, or go on with it, and measure what it leaves."""
    from experiments.run.driver import run_training

    tree = bed.tree(str(bed.cut), arm.steps) | {"teachers": dict(arm.teachers)}
    settings = [f"run.name={arm.name}", *arm.settings, *bed.more]
    with counted(bed.folder / f"{arm.name}-spent.json") as seconds:
        run = run_training(load_config(tree, settings))
        bits = bits_of(bed, run / "student")
        outcome = Outcome(bits=bits, seconds=seconds(), steps=arm.steps)
    return _kept(bed, arm.name, outcome)


@contextmanager
def counted(file: Path, every: float = 5.0) -> Iterator[Callable[[], float]]:
    """Count processor seconds over all calls that name a file.

    What is spent is written as time passes, so that of a killed call no more than
    ``every`` seconds are lost.

    Args:
        file: of the seconds so far; made where there is none.
        every: seconds between two writings.

    Yields:
        What gives the seconds so far, those of earlier calls included.
    """
    before = float(read_json(file)["seconds"]) if file.is_file() else 0.0
    begun, over = time.process_time(), threading.Event()

    def seconds() -> float:
        return before + time.process_time() - begun

    def write() -> None:
        while not over.wait(every):
            write_json(file, {"seconds": round(seconds(), 1)})

    file.parent.mkdir(parents=True, exist_ok=True)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield seconds
    finally:
        over.set()
        writer.join()
        write_json(file, {"seconds": round(seconds(), 1)})


def measure(bed: Bed, name: str, model: str | Path) -> Outcome:
    """A model as it is."""
    known = result_of(bed, name)
    if known is not None:
        return known
    outcome = Outcome(bits=bits_of(bed, model), seconds=0.0, steps=0)
    return _kept(bed, name, outcome)


CORRECTIONS: Mapping[str, Mapping[str, bool]] = {
    "": {},
    "-bias": {"correct_bias": True},
    "-scales": {"correct_scales": True},
    "-both": {"correct_bias": True, "correct_scales": True},
}
"""What is corrected after rounding, by the end of an outcome's name."""


def round_off(
    bed: Bed, student: Path, out: Path, corrections: Mapping[str, bool] | None = None
) -> Path:
    """Round a student's weights as the transform does at the end of a phase.

    Args:
        bed: which says the bits.
        student: unrounded.
        out: the folder; what is there is taken as it is.
        corrections: options of the transform.
    """
    from student.transforms import FakeQuant, put_transformed
    from teacher.loading.models import load_model

    if out.is_dir():
        return out
    loaded, plain = load_model(str(student)), load_model(str(student))
    options: dict[str, Any] = dict(corrections or {})
    rounded = FakeQuant(bits=bed.bits, **options)
    rounded.attach(loaded.model)
    rounded.at(1.0, 0)
    if corrections:
        rounded.finish(loaded.model.eval(), calibration(bed, loaded.tokenizer))
    put_transformed(loaded.model, plain.model)
    plain.model.save_pretrained(out)
    loaded.tokenizer.save_pretrained(out)
    return out


def calibration(bed: Bed, tokenizer: Any) -> list[TokenBatch]:
    """What a run of these settings calibrates on."""
    from experiments.assemble.data import Encoder, calibration_texts, cutter_of

    data = load_config(bed.tree(str(bed.cut), 1), bed.more).data
    encode = Encoder(tokenizer, data.max_length)
    texts = [x.text for x in calibration_texts(data, cutter_of(encode))]
    return [encode(texts[start : start + 8]) for start in range(0, len(texts), 8)]


def bits_of(bed: Bed, model: str | Path) -> float:
    """Held-out bits per character, mean over domains."""
    config = load_config(bed.tree(str(bed.cut), 1), bed.more)
    means = [
        sum(bits for bits, _ in texts) / sum(count for _, count in texts)
        for texts in bits_by_text(config, Path(model)).values()
    ]
    return sum(means) / len(means)


def _kept(bed: Bed, name: str, outcome: Outcome) -> Outcome:
    write_json(
        bed.folder / f"{name}.json",
        {
            "bits": outcome.bits,
            "seconds": round(outcome.seconds, 1),
            "steps": outcome.steps,
        },
    )
    return outcome
