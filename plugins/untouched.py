"""Whether a plugin leaves what it is given, and the process it runs in, alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plugins.seeds import State, seeded, states

PROBED = 64
"""Values of each tensor that are kept to be compared: writes through ``.data`` or
NumPy do not count up the tensor's version."""
_DEPTH = 8
"""How deep tensors lie in what a plugin is given: context, comparison, features."""
_GRADIENTS, _DTYPE = "whether gradients are recorded", "torch's default dtype"
_THREADS = "torch's number of threads"
_OURS = ("align", "fuse", "student")


class Untouched:
    """A look at tensors and at global state, to be compared with a later one.

    What is compared is every tensor's version and a few of its values.
    """

    def __init__(self, given: Any, whole: bool = False) -> None:
        """Note what is there now.

        Args:
            given: tensors, in fields, lists and mappings; lazily computed parts are
                not computed.
            whole: keep every value, for contracts.
        """
        self._most = None if whole else PROBED
        self._tensors = tensors_of(given)
        self._facts = [_facts(x) for _, x in self._tensors]
        self._values = {device: torch.cat(x) for device, x in self._look().items()}
        self._globals = _globals()
        self._seeds = _seeds()

    def problem(self) -> str:
        """What was changed since, or an empty string."""
        for (name, x), before in zip(self._tensors, self._facts, strict=True):
            if _facts(x) != before:
                return f"writes to {name}, which it was given"
        for device, now in self._look().items():
            was = self._values[device]
            if torch.equal(torch.cat(now), was):
                continue
            names = [name for name, x in self._tensors if x.device == device]
            same = list(map(torch.equal, now, was.split([len(x) for x in now])))
            return f"writes to {names[same.index(False)]}, which it was given"
        for what, value in _globals().items():
            was_before = self._globals.get(what, value)
            if value != was_before:
                return f"changes {what} from {was_before} to {value}"
        what = seeded(self._seeds, _seeds())
        return f"changes {what}; seed a generator of your own" if what else ""

    def restore(self) -> None:
        """Put PyTorch's global state back; the seed is the caller's to keep."""
        torch.set_grad_enabled(bool(self._globals[_GRADIENTS]))
        dtype = self._globals[_DTYPE]
        assert isinstance(dtype, torch.dtype)
        torch.set_default_dtype(dtype)
        threads = self._globals.get(_THREADS)
        if isinstance(threads, int) and threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def _look(self) -> dict[torch.device, list[Tensor]]:
        """Bytes of some values of every tensor, by device: NaN equals itself.

        They may be the tensors' own; joining them copies.
        """
        tensors: dict[torch.device, list[Tensor]] = {}
        for _, x in self._tensors:
            probe = _probe(x.detach(), self._most).reshape(-1)
            tensors.setdefault(x.device, []).append(probe.view(torch.uint8))
        return tensors


def _probe(x: Tensor, most: int | None) -> Tensor:
    """At most so many values, spread over the tensor, without copying the rest."""
    if most is None or x.numel() <= most:
        return x.contiguous()
    if x.is_contiguous():
        return x.view(-1)[:: x.numel() // most].contiguous()
    for axis in range(x.dim()):
        x = x[(slice(None),) * axis + (slice(None, None, max(1, x.shape[axis] // 3)),)]
    return x.contiguous()


def _facts(x: Tensor) -> tuple[int, bool]:
    return (-1 if x.is_inference() else x._version), x.requires_grad


def _globals() -> Mapping[str, object]:
    """What a plugin must not change for everybody else."""
    settings: dict[str, object] = {
        _GRADIENTS: torch.is_grad_enabled(),
        _DTYPE: torch.get_default_dtype(),
    }
    if threading.current_thread() is threading.main_thread():
        # elsewhere the main thread may set them meanwhile
        settings["torch's seed"] = torch.initial_seed()
        settings[_THREADS] = torch.get_num_threads()
    return settings


def _seeds() -> dict[str, State]:
    """Of Python and NumPy, asked where nobody else seeds meanwhile."""
    alone = threading.current_thread() is threading.main_thread()
    return states() if alone else {}


def tensors_of(given: Any) -> list[tuple[str, Tensor]]:
    """Tensors in what is there already, each once, with the path to it."""
    return list(_tensors(given, "", 0, set()))


def _tensors(
    given: Any, name: str, depth: int, met: set[int]
) -> Iterator[tuple[str, Tensor]]:
    if id(given) in met or depth > _DEPTH or isinstance(given, nn.Module | str):
        return
    if isinstance(given, Tensor):
        met.add(id(given))
        if given.layout == torch.strided:
            yield name or "the tensor", given
        return
    for key, value in _parts(given).items():
        met.add(id(given))
        inside = f"{name}.{key}" if name else key
        yield from _tensors(value, inside, depth + 1, met)


def _parts(given: Any) -> dict[str, Any]:
    """What is held by something of ours or a collection; nothing is computed."""
    if isinstance(given, Mapping):
        return {str(key): value for key, value in given.items()}
    if isinstance(given, list | tuple):
        return {str(index): value for index, value in enumerate(given)}
    if type(given).__module__.partition(".")[0] not in _OURS:
        return {}
    held = dict(getattr(given, "__dict__", {}))
    if not held and is_dataclass(given) and not isinstance(given, type):
        held = {field.name: getattr(given, field.name) for field in fields(given)}
    return {key: value for key, value in held.items() if not callable(value)}
