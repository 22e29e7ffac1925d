"""A trained model as one small file: matrices in six bits, beside its tokenizer.

A matrix is stored as whole numbers from -31 to 31 with a scale for each row, and all
files lie in one zip, whose compression takes what whole bytes leave unused. Read again,
the weights are float32.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

LEVELS = 31
"""Steps of a row's scale to each side of 0: six bits."""
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of a row's largest weight that are tried as the end of its scale."""

WEIGHTS = "model.safetensors"
"""As ``save_pretrained`` calls it; in the zip it holds numbers and scales."""
_SCALE = ".row_scale"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same bytes


def pack(model: Path, archive: Path) -> None:
    """Write a model's folder into one file; the same folder gives the same bytes.

    Args:
        model: what ``save_pretrained`` wrote, weights in float32.
        archive: the zip to write; folders are made.
    """
    from safetensors.torch import load_file, save

    tensors: dict[str, Tensor] = {}
    for name, weight in sorted(load_file(model / WEIGHTS).items()):
        if weight.dim() == 2:
            tensors[name], tensors[name + _SCALE] = quantise(weight)
        else:
            tensors[name] = weight
    files = {WEIGHTS: save(tensors)}
    files |= {
        f.name: f.read_bytes() for f in model.glob("*.json") if f.name != "zoo.json"
    }
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as kept:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            kept.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)


def unpack(archive: Path, folder: Path) -> None:
    """Write a packed model as ``from_pretrained`` reads it.

    Args:
        archive: what :func:`pack` wrote.
        folder: there is one already.
    """
    from safetensors.torch import load, save_file

    with zipfile.ZipFile(archive) as kept:
        files = {entry.filename: kept.read(entry) for entry in kept.infolist()}
    stored = load(files.pop(WEIGHTS))
    weights = {
        name: tensor * stored[name + _SCALE] if name + _SCALE in stored else tensor
        for name, tensor in stored.items()
        if not name.endswith(_SCALE)
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to its own scale, chosen for the least squared error.

    Args:
        weight: (R, C) float32.

    Returns:
        (R, C) int8 from -31 to 31, and (R, 1) float32 scales: their product is near
        ``weight``.
    """
    peak = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    numbers, scales, least = torch.empty(0), torch.empty(0), torch.empty(0)
    for clip in CLIPS:
        scale = peak * clip / LEVELS
        rounded = (weight / scale).round().clamp(-LEVELS, LEVELS)
        error = (rounded * scale - weight).square().sum(1, keepdim=True)
        if not len(least):
            numbers, scales, least = rounded, scale, error
        better = error < least
        numbers = torch.where(better, rounded, numbers)
        scales = torch.where(better, scale, scales)
        least = torch.minimum(error, least)
    return numbers.to(torch.int8), scales
