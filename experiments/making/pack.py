"""A rounded student in whole numbers of a few bits, as other programs load them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from align.errors import InputError, MissingPackageError, prefix_errors
from align.support.cache_folder import made_folder
from align.support.quiet import quiet_libraries
from experiments.making.make import check_new
from experiments.making.origin import origin_of
from student.transforms.codes import codes_of
from teacher.packages.manifest import write_manifest

WEIGHTS = "model.safetensors"
_ONE_FILE = "1000TB"


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What was written."""

    layers: list[str]
    """Those in whole numbers."""
    others: list[str]
    """Linear layers that lie on no such grid, and stay as they are; not the head."""
    size: int
    """Bytes of the weights."""
    size_before: int
    """Bytes of the weights in float32."""


def pack_student(source: str, out: Path, *, bits: int, group: int) -> Packed:
    """Write a rounded student as compressed-tensors packs it.

    The numbers are the student's own, bit for bit: a layer that is not on the grid is
    left as it is. Scales and everything else are float32.

    Args:
        source: a plain checkpoint whose linear layers ``fake_quant`` has rounded.
        out: the new folder.
        bits: of a weight, 2 to 8, as it was rounded.
        group: inputs that share a scale; 0: all of an output.

    Raises:
        InputError: no layer lies on such a grid, a negative group, or the model cannot
            be packed.
        MissingPackageError: compressed-tensors is not installed.
    """
    from teacher.loading.models import load_model

    if group < 0:
        raise InputError(f"group is {group}; give the inputs that share a scale, or 0")
    check_new(out)
    library = _library()
    quiet_libraries()
    origin = dict(origin_of(source))
    notices: Mapping[str, str] = origin.pop("notices")
    loaded = load_model(source)
    model: Any = loaded.model.float()
    with prefix_errors(f"model {source!r}"):
        codes, others = _codes(model, bits, group)
    before = sum(p.numel() * p.element_size() for p in model.parameters())
    head = model.get_output_embeddings()
    ignored = [name for name, module in model.named_modules() if module is head]
    scheme = library.scheme(bits, group, [*ignored, *others])
    with made_folder(out) as folder:
        model.save_pretrained(folder, max_shard_size=_ONE_FILE)
        loaded.tokenizer.save_pretrained(folder)
        _replace(folder / WEIGHTS, codes, library, bits)
        _note(folder / "config.json", scheme)
        for file, text in notices.items():
            (folder / file).write_text(text, encoding="utf-8")
        grid = f"groups of {group}" if group else "a scale a row"
        done = f"{len(codes)} linear layers packed to {bits} bits, {grid}"
        write_manifest(folder, **origin, conversion=done)
        size = (folder / WEIGHTS).stat().st_size
    return Packed(layers=[*codes], others=others, size=size, size_before=before)


def _codes(
    model: Any, bits: int, group: int
) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """Whole numbers and scales by layer, and which layers have none.

    Raises:
        InputError: none has, or groups do not divide a layer's inputs.
    """
    head = model.get_output_embeddings()
    codes, others = {}, []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module is head:
            continue
        if group and module.in_features % group:
            others.append(name)
            continue
        pair = codes_of(module.weight, bits, group)
        if pair is None:
            others.append(name)
        else:
            codes[name] = pair
    if codes:
        return codes, others
    why = (
        f"of its {len(others)} linear layers but the head none is"
        if others
        else "its layers are no linear layers of PyTorch, as GPT-2's are not: none is"
    )
    grid = f"{bits} bits with {f'groups of {group}' if group else 'a scale a row'}"
    raise InputError(
        f"{why} on a grid of {grid}; give bits and group as fake_quant had them, of a "
        "student whose strength ended at 1 and that was exported in float32 "
        "(student.export_dtype=float32)"
    )


def _replace(
    file: Path,
    codes: Mapping[str, tuple[Tensor, Tensor]],
    library: _Library,
    bits: int,
) -> None:
    """Put whole numbers in the place of weights.

    Raises:
        InputError: the file has other names than the model.
    """
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    for name, (whole, scales) in codes.items():
        if tensors.pop(f"{name}.weight", None) is None:
            raise InputError(
                f"{name} has another name in the checkpoint, so that nothing can be "
                "put in its place; this family cannot be packed"
            )
        tensors[f"{name}.weight_packed"] = library.pack(whole, bits)
        tensors[f"{name}.weight_scale"] = scales
        tensors[f"{name}.weight_shape"] = torch.tensor(whole.shape)
    save_file(tensors, file, metadata={"format": "pt"})


def _note(file: Path, scheme: Mapping[str, Any]) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    config["quantization_config"] = scheme
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Library:
    """What is taken of compressed-tensors."""

    pack: Any
    config: Any

    def scheme(self, bits: int, group: int, ignored: list[str]) -> dict[str, Any]:
        """What a config says, so that whoever loads knows the grid."""
        weights = {
            "num_bits": bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if group else "channel",
            "group_size": group or None,
        }
        groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
        scheme: dict[str, Any] = self.config(
            config_groups=groups,
            format="pack-quantized",
            quantization_status="compressed",
            ignore=ignored,
        ).model_dump(mode="json")
        return scheme


def _library() -> _Library:
    """The packing that a newer release may move is asked for in one place.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
        from compressed_tensors.quantization import QuantizationConfig
    except ImportError as error:
        raise MissingPackageError(
            "a packed student is written by the package compressed-tensors, which is "
            f"not installed whole ({error}); pip install 'mtkd[packed]'"
        ) from error
    return _Library(pack_to_int32, QuantizationConfig)
