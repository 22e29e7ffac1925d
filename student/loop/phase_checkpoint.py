"""Checkpoints of a phase under way: written whole, a few kept, taken up again.

A checkpoint holds every trained parameter and its moments as whole tensors, so any
number of processes and any ZeRO stage can go on from it. It is safetensors and JSON
alone: nothing in it is ever unpickled.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from student.checkpoint import (
    CheckpointError,
    full_disk_named,
    mark_complete,
    put_in_place,
    read_complete,
    refuse_non_finite,
    steps_kept,
)
from student.loop.data_order import Writing
from student.loop.engine import Engine
from student.loop.prepared import Prepared
from student.loop.random_state import read_random_state, set_random_state

_WEIGHT, _BUFFER, _BESIDE, _WRITTEN = "weight", "buffer", "beside", "written"
_TEXTS = "texts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeper:
    """Where a phase keeps its checkpoints, and which it may take."""

    folder: Path
    """Holds ``step-NNNNNNNN`` folders."""
    keep: int = 2
    """Newest ones that stay."""
    run: str = ""
    """Whose they are: checkpoints of another run are refused."""
    trust: bool = False
    """Take another run's checkpoint all the same."""
    warn: Callable[[str], None] = print
    """Told what is passed over, on the main process."""
    may_write: Callable[[], None] = lambda: None
    """Raises on the main process once another launch has taken the run over."""
    sign: Callable[[Path], None] = lambda folder: None
    """Given a checkpoint, on the main process, before it has its name."""
    check_signed: Callable[[Path], None] = lambda folder: None
    """Raises on the main process where a checkpoint is not to be taken."""


def is_kept(done: int, steps: int, every: int) -> bool:
    """Whether a checkpoint is due after so many steps.

    Also after the last step of a phase that is long enough to have had one: whoever is
    asked to stop while the phase is measured has nothing to lose then.

    Args:
        done: optimiser steps.
        steps: of the phase.
        every: ``train.checkpoint_every``.
    """
    if done == steps:
        return 0 < every <= steps
    return every > 0 and done % every == 0


def save_checkpoint(
    keeper: Keeper,
    engine: Engine,
    prepared: Prepared,
    distiller: nn.Module,
    done: int,
    *,
    beside: Mapping[str, Tensor] | None = None,
    writing: Writing | None = None,
) -> None:
    """Write a checkpoint; every process takes part.

    Args:
        keeper: where.
        engine: all processes.
        prepared: the distiller's optimiser.
        distiller: what is trained.
        done: optimiser steps of the phase behind it.
        beside: what moves with the student and is the same on every process, by name.
        writing: whose buffer is kept.

    Raises:
        OSError: the disk is full; what was there before is untouched.
        NonFiniteStudentError: what is trained is not finite.
    """
    part = keeper.folder / f".step-{done:08d}.part"
    engine.from_main(lambda: _fresh(part))
    optimizer = prepared.optimizer_state()
    applied = optimizer.steps()
    share = dict(_share(engine, optimizer, distiller, applied > 0))
    if engine.is_main:
        share |= {f"{_BESIDE}/{n}": _copied(x) for n, x in (beside or {}).items()}
        if writing is not None:
            texts = torch.frombuffer(bytearray(writing.kept()), dtype=torch.uint8)
            share[f"{_WRITTEN}/{_TEXTS}"] = texts
    weights = [(n, x) for n, x in share.items() if n.startswith(f"{_WEIGHT}/")]
    trained = f"what was trained for {done} steps"
    state = {
        "step": done,
        "applied": applied,
        "samples_per_step": engine.samples_per_step,
        "world_size": engine.world_size,
        "loss_scale": prepared.loss_scale(),
        "run": keeper.run,
    }
    try:
        with full_disk_named(keeper.folder):
            engine.together(lambda: refuse_non_finite(weights, trained))
            engine.together(lambda: _write(part, engine.rank, share))
            engine.from_main(lambda: _finish(part, state, keeper))
    except Exception:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # holds earlier checkpoints
            keeper.folder.rmdir()
        raise


def load_checkpoint(
    keeper: Keeper,
    engine: Engine,
    prepared: Prepared,
    distiller: nn.Module,
    *,
    beside: Mapping[str, Tensor] | None = None,
    writing: Writing | None = None,
) -> int:
    """Go on from the newest checkpoint that verifies; every process takes part.

    Args:
        keeper: where it lies.
        engine: all processes.
        prepared: the distiller's optimiser.
        distiller: what is trained; filled.
        beside: see :func:`save_checkpoint`; filled.
        writing: takes the buffer up.

    Returns:
        Optimiser steps of the phase behind it; 0 where there is no checkpoint.

    Raises:
        CheckpointError: none verifies, or it belongs to another run or model.
    """
    newest = engine.from_main(lambda: _newest(keeper))
    if newest is None:
        return 0
    folder, state = newest
    if state["samples_per_step"] != engine.samples_per_step:
        raise CheckpointError(
            f"checkpoint {folder} took {state['samples_per_step']} samples per "
            f"optimiser step, this run takes {engine.samples_per_step}; start it with "
            "the batch size and accumulation it had, or delete the folder"
        )
    with _Tensors(folder) as tensors:
        _put_all(tensors, prepared, distiller, int(state["applied"]))
        for name, buffer in distiller.named_buffers():
            if tensors.has(_BUFFER, name):
                buffer.copy_(tensors.read(_BUFFER, name))
        _put_beside(tensors, beside or {})
        if writing is not None:
            writing.take(_texts(tensors))
    prepared.set_loss_scale(state["loss_scale"])
    _set_random(folder, engine, state)
    return int(state["step"])


def _fresh(part: Path) -> None:
    for left in part.parent.glob(".step-*.part"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir(parents=True)


def _share(
    engine: Engine, optimizer: Any, distiller: nn.Module, moments: bool
) -> Iterator[tuple[str, Tensor]]:
    """Gather every trained tensor; keep this process's share of them."""
    for index, (name, parameter) in enumerate(_trained(distiller)):
        kept = optimizer.moments(parameter) if moments else ()
        for kind in (_WEIGHT, *kept):
            whole = optimizer.get(parameter, None if kind == _WEIGHT else kind)
            if index % engine.world_size == engine.rank:
                yield f"{kind}/{name}", _copied(whole)
    if engine.is_main:
        for name, buffer in distiller.named_buffers():
            yield f"{_BUFFER}/{name}", _copied(buffer)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _trained(distiller: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((n, p) for n, p in distiller.named_parameters() if p.requires_grad)


def _write(part: Path, rank: int, share: dict[str, Tensor]) -> None:
    save_file(share, part / f"state-{rank:05d}.safetensors")
    save_file(read_random_state(), _random_file(part, rank))


def _random_file(folder: Path, rank: int) -> Path:
    return folder / f"random-{rank:05d}.safetensors"


def _finish(part: Path, state: dict[str, Any], keeper: Keeper) -> None:
    mark_complete(part, state)
    keeper.sign(part)
    keeper.may_write()
    put_in_place(
        part, keeper.folder / part.name.removeprefix(".").removesuffix(".part")
    )
    prune(keeper.folder, keeper.keep)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints, if one of those that stay verifies."""
    every = [path for _, path in steps_kept(folder)]
    if len(every) > keep and any(map(_verifies, every[:keep])):
        for path in every[keep:]:
            shutil.rmtree(path, ignore_errors=True)


def _verifies(folder: Path) -> bool:
    try:
        return read_complete(folder, digests=True) is not None
    except CheckpointError:
        return False


def _newest(keeper: Keeper) -> tuple[Path, dict[str, Any]] | None:
    refused: list[tuple[Path, str]] = []
    for step, folder in steps_kept(keeper.folder):
        try:
            state = read_complete(folder, digests=True)
        except CheckpointError as error:
            refused.append((folder, str(error)))
            continue
        if state is None:
            refused.append((folder, f"checkpoint {folder} was never completed"))
            continue
        _check_owner(folder, state, keeper)
        for damaged, why in refused:
            aside = damaged.with_name(f"{damaged.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            damaged.rename(aside)
            keeper.warn(
                f"{why.partition(';')[0]}; it is set aside as {aside.name}, and "
                f"training goes on from the older checkpoint of step {step}"
            )
        return folder, state
    if refused:
        raise CheckpointError(refused[0][1])
    return None


def _check_owner(folder: Path, state: dict[str, Any], keeper: Keeper) -> None:
    if state["run"] != keeper.run and not keeper.trust:
        raise CheckpointError(
            f"checkpoint {folder} was written by another run; digests tell damage, "
            "not intent: if you know where it comes from, go on with "
            "--trust-checkpoint, else delete the folder"
        )
    keeper.check_signed(folder)


def _put_beside(tensors: _Tensors, beside: Mapping[str, Tensor]) -> None:
    missing = sorted(set(beside) - tensors.names(_BESIDE))
    if missing:
        raise CheckpointError(
            f"checkpoint {tensors.folder} holds nothing of {missing[0]}, which moves "
            "with the student; delete the folder to train the phase from its start"
        )
    with torch.no_grad():
        for name, tensor in beside.items():
            tensor.copy_(tensors.read(_BESIDE, name))


def _texts(tensors: _Tensors) -> bytes:
    if not tensors.has(_WRITTEN, _TEXTS):
        raise CheckpointError(
            f"checkpoint {tensors.folder} holds none of the texts of data.written; "
            "delete the folder to train the phase from its start"
        )
    return tensors.read(_WRITTEN, _TEXTS).numpy().tobytes()


def _put_all(
    tensors: _Tensors, prepared: Prepared, distiller: nn.Module, applied: int
) -> None:
    named = dict(_trained(distiller))
    differing = sorted(set(named) ^ tensors.names(_WEIGHT))
    if differing:
        raise CheckpointError(
            f"checkpoint {tensors.folder} holds other parameters than this phase "
            f"trains, such as {differing[0]}; delete the folder to train the phase "
            "from its start"
        )
    optimizer = prepared.optimizer_state()
    if applied:
        optimizer.begin(applied)
    with torch.no_grad():
        for name, parameter in named.items():
            optimizer.put(parameter, None, tensors.read(_WEIGHT, name))
            for moment in optimizer.moments(parameter) if applied else ():
                optimizer.put(parameter, moment, tensors.read(moment, name))
        optimizer.finish()


def _set_random(folder: Path, engine: Engine, state: dict[str, Any]) -> None:
    file = _random_file(folder, engine.rank)
    if file.is_file():
        with safe_open(file, "pt") as states:
            set_random_state({key: states.get_tensor(key) for key in states.keys()})  # noqa: SIM118
    else:  # more processes than before: new ones draw something of their own
        torch.manual_seed(int(state["step"]) * 1_000_003 + engine.rank)


class _Tensors:
    """The tensors of all shares, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = [
            safe_open(file, "pt") for file in sorted(folder.glob("state-*.safetensors"))
        ]
        self._at = {key: file for file in self._files for key in file.keys()}  # noqa: SIM118

    def __enter__(self) -> _Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.__exit__(None, None, None)

    def names(self, kind: str) -> set[str]:
        return {k.partition("/")[2] for k in self._at if k.startswith(f"{kind}/")}

    def has(self, kind: str, name: str) -> bool:
        return f"{kind}/{name}" in self._at

    def read(self, kind: str, name: str) -> Tensor:
        key = f"{kind}/{name}"
        tensor: Tensor = self._at[key].get_tensor(key)
        return tensor
