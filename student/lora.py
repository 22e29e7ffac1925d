"""Low-rank updates beside a student's frozen weights: made, saved, merged.

The student stays the class it was. Its attention, and whoever listens there, does not
notice: only its linear layers add something to what they give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from align.errors import InputError
from align.support.extras import peft
from align.support.text_part import linear_in, named_layers, text_modules
from student.config import LoraConfig

_OWN = "default"
"""What peft calls the one adapter of a model."""
_WEIGHTS = "adapter_model.safetensors"
"""The file in which peft looks for an adapter's numbers."""


def add_adapters(model: Any, config: LoraConfig, seed: int) -> None:
    """Freeze a student and give its linear layers trainable updates, in place.

    An update starts at zero, so the student gives what it gave. Layers of a tower that
    reads no text get none.

    Args:
        model: a ``PreTrainedModel``, its linear layers quantised or not.
        config: with a rank above 0.
        seed: decides the updates; the generators of the process stay as they were.

    Raises:
        ValueError: a target that no layer is called, or peft is not installed.

    Source:
        ``W x + alpha / rank * B A x`` with ``A`` (rank, in) drawn and ``B`` (out, rank)
        zero: Hu et al. 2021, LoRA (arXiv 2106.09685), by peft; on quantised weights
        Dettmers et al. 2023, QLoRA (arXiv 2305.14314).
    """
    from transformers.pytorch_utils import Conv1D

    library = peft("student.lora", "set student.lora.rank=0 and student.quantise=none")
    targets = "all-linear" if config.targets == "auto" else list(config.targets)
    layers = linear_in(text_modules(model))
    _check_targets(model, config, layers)
    elsewhere = sorted(linear_in(dict(model.named_modules())).keys() - layers.keys())
    settings = library.LoraConfig(
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        exclude_modules=elsewhere or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        base_model_name_or_path=model.config.name_or_path,
    )
    with torch.random.fork_rng(devices=[]):  # peft draws on the CPU
        torch.manual_seed(seed)
        library.inject_adapter_in_model(settings, model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # bfloat16 would round small updates away
            parameter.data = parameter.data.float()


def save_adapter(model: Any, folder: Path) -> None:
    """Write the updates, and what else is trained, as peft's
    ``PeftModel.from_pretrained`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: parameter.detach().cpu().contiguous()
        for key, parameter in _saved_names(model).items()
    }
    save_file(tensors, folder / _WEIGHTS)
    model.peft_config[_OWN].save_pretrained(folder)


def load_adapter(model: Any, folder: Path) -> None:
    """Give a model with updates those that :func:`save_adapter` wrote.

    Raises:
        ValueError: there are none, or they are of another shape of model.
    """
    file = folder / _WEIGHTS
    if not file.is_file():
        raise InputError(
            f"{folder} holds no {_WEIGHTS}; give a folder that a run with student.lora "
            "wrote"
        )
    names, weights = _saved_names(model), load_file(file)
    differing = sorted(
        {name for name in names.keys() | weights.keys() if name not in names}
        | {
            n
            for n, p in names.items()
            if n not in weights or weights[n].shape != p.shape
        }
    )
    if differing:
        raise InputError(
            f"{file} does not fit this student, for example at {differing[0]}; set "
            "student.model and student.lora as they were"
        )
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(weights[name])


def merge_adapters(adapted: nn.Module, whole: nn.Module) -> None:
    """Add a student's updates to the same student's weights in full, in place; what
    else was trained takes the place of what was there.

    Args:
        adapted: with updates; its own weights may be quantised and are not looked at.
        whole: the student that the updates were put on, as it was loaded.
    """
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        for update in _updates(adapted):
            layer: Any = whole.get_submodule(update.name)
            change = update.scale * (update.b.float() @ update.a.float())
            change = change.T if isinstance(layer, Conv1D) else change
            weight: Tensor = layer.weight
            weight.copy_(weight.float() + change.to(weight.device))
        named = dict(whole.named_parameters())
        for name, parameter in _trained_whole(adapted):
            named[name].copy_(parameter)


@dataclass(frozen=True, slots=True, eq=False)
class _Update:
    name: str
    """Of the layer in the model as it was."""
    a: Tensor
    """(rank, in)."""
    b: Tensor
    """(out, rank)."""
    scale: float


def _updates(model: nn.Module) -> Iterator[_Update]:
    for name, module in model.named_modules():
        a, b = getattr(module, "lora_A", {}), getattr(module, "lora_B", {})
        if _OWN in a:
            layer: Any = module
            yield _Update(name, a[_OWN].weight, b[_OWN].weight, layer.scaling[_OWN])


def _saved_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained by the names that peft gives it in files."""
    updates = {
        name.replace(f".{_OWN}.", "."): parameter
        for name, parameter in model.named_parameters()
        if f".{_OWN}." in name
    }
    every = updates | dict(_trained_whole(model))
    return {f"base_model.model.{name}": p for name, p in every.items()}


def _trained_whole(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Trained parameters that are no updates, such as embeddings."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and f".{_OWN}." not in name:
            yield name, parameter


def _check_targets(
    model: Any, config: LoraConfig, layers: Mapping[str, nn.Module]
) -> None:
    if config.targets == "auto":
        return
    head = model.get_output_embeddings()
    others = {name: layer for name, layer in layers.items() if layer is not head}
    named_layers(config.targets, others, model, "student.lora.targets")
