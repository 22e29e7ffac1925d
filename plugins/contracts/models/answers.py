"""What is wrong with an answer that is about whole models, see
:mod:`plugins.answers`: where they come from, how they are made and how they write, and
what is measured of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from align.support.matrices import plain_name, plain_parameters
from plugins.answers import is_real, kinds_of
from student.evaluators.base import Measured, Metric
from teacher.sources.base import COSTS, EVERYTHING

OF_THE_CALLER = (
    "max_new_tokens",
    "max_length",
    "min_length",
    "eos_token_id",
    "pad_token_id",
    "bos_token_id",
)
"""Settings of ``GenerationConfig`` that no way of writing sets."""


def teacher_source_problem(source: Any) -> str:
    """What is wrong with what a source of teachers says of itself."""
    gives = getattr(source, "gives", None)
    if not isinstance(gives, frozenset) or not gives or not gives <= EVERYTHING:
        return f"has gives = {gives!r}; give some of {', '.join(sorted(EVERYTHING))}"
    if source.cost not in COSTS:
        return f"has cost = {source.cost!r}; say one of {', '.join(COSTS)}"
    for name in ("moves", "of_student"):
        if not isinstance(getattr(source, name), bool):
            return f"has {name} = {getattr(source, name)!r}; say True or False"
    for name in ("says", "like", "files"):
        text = getattr(source, name)
        if not isinstance(text, str) and (text is not None or name == "says"):
            return f"has {name} = {text!r}, which is no text"
    return ""


def writer_problem(fields: Any) -> str:
    """What is wrong with what a way of writing sets.

    Args:
        fields: what its ``fields`` returned.
    """
    from transformers import GenerationConfig

    if not isinstance(fields, Mapping):
        return f"returns {type(fields).__name__} as its fields; return a mapping"
    taken = sorted(fields.keys() & set(OF_THE_CALLER))
    if taken:
        return f"sets {taken[0]}, which is the caller's"
    unknown = sorted(fields.keys() - vars(GenerationConfig()).keys())
    if unknown:
        return f"sets {unknown[0]!r}, which GenerationConfig has not"
    count = fields.get("num_return_sequences", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        return f"asks for {count!r} candidates; ask for 1 or more"
    return ""


def student_maker_problem(made: Any, depth: int) -> str:
    """What is wrong with a student that was made of a model of ``depth`` layers."""
    layers, model = getattr(made, "layers", None), getattr(made, "model", None)
    if model is None or not hasattr(model, "save_pretrained"):
        return f"made {type(made).__name__} without a model of transformers; give Made"
    if not isinstance(layers, tuple) or not all(
        isinstance(layer, int) and 0 <= layer < depth for layer in layers
    ):
        return f"has layers = {layers!r}; give numbers of the source's from 0"
    has = model.config.num_hidden_layers
    if len(layers) != has:
        return f"says where {len(layers)} layers are from, but its student has {has}"
    return ""


def attached_problem(before: Mapping[str, Tensor], model: nn.Module) -> str:
    """What is wrong with a student that a transform was put on.

    Args:
        before: its parameters by name, as they were.
        model: the student.
    """
    now = plain_parameters(model)
    for name, parameter in before.items():
        plain = plain_name(name)
        if plain is not None and now.get(plain) is not parameter:
            return (
                f"puts another parameter in the place of {name}; change weights with "
                "student.transforms.WeightTransform, or what modules give with hooks"
            )
    return ""


def metrics_problem(evaluator: Any) -> str:
    """What is wrong with what an evaluator says of itself."""
    metrics = getattr(evaluator, "metrics", None)
    if not isinstance(metrics, Mapping) or not metrics:
        return f"has metrics = {metrics!r}; give a Metric by the name of each"
    for name, metric in metrics.items():
        known = isinstance(metric, Metric) and isinstance(metric.unit, str)
        if not known or metric.better not in ("lower", "higher", "neither"):
            return f"says of {name!r} {metric!r}; give a Metric: unit, lower or higher"
    of_teachers = getattr(evaluator, "of_teachers", None)
    if not isinstance(of_teachers, bool):
        return f"has of_teachers = {of_teachers!r}; say True or False"
    return ""


def evaluator_problem(measured: Any, metrics: Mapping[str, Metric]) -> str:
    """What is wrong with what an evaluator found.

    Args:
        measured: what it returned.
        metrics: that it may return.
    """
    if not isinstance(measured, Measured):
        return f"returns {kinds_of(measured)}; return a Measured"
    for name, parts in measured.values.items():
        if name not in metrics:
            return f"measures {name!r}, which is none of {', '.join(metrics)}"
        if not isinstance(parts, Mapping):
            return f"gives {kinds_of(parts)} for {name}; give numbers by part"
        for part, number in parts.items():
            if not is_real(number) or not math.isfinite(number):
                return f"gives {number!r} as {name} of {part}; give a finite number"
    if not measured.values and not measured.notes:
        return "measures nothing and does not say why; say so in notes"
    return ""
