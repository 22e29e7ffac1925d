"""What an optimiser knows of each parameter, however the engine splits it.

ZeRO scatters weights and moments over the processes in ways that differ by stage and
by number of processes. Here they are read and written as whole tensors under the
parameter's name, so that a checkpoint fits every stage and every number of processes.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from align.support.extras import bitsandbytes
from student.config import TrainConfig
from student.loop.muon import MATRICES, MOMENTUM, MuonAdamW

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter, as PyTorch calls it."""

_CODES = ("state1", "state2")
_SCALES = ("absmax1", "absmax2")
"""What bitsandbytes' 8-bit AdamW keeps: a byte for each number of a moment, and a scale
for each 256 of them; of small parameters the moments themselves."""


def build_optimizer(
    groups: list[dict[str, Any]],
    config: TrainConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> torch.optim.Optimizer:
    """The optimiser of ``train.optimizer`` over groups of parameters.

    Args:
        groups: with ``lr`` and ``weight_decay``.
        config: which, and whether its processes divide the state.
        rank: this process's number.
        world_size: processes that share a step.

    Raises:
        ValueError: it needs bitsandbytes, which is not installed.

    Source:
        Decoupled weight decay: Loshchilov and Hutter 2019 (arXiv 1711.05101). Moments
        in 8 bits by blocks: Dettmers et al. 2022 (arXiv 2110.02861). Muon: see
        :class:`student.loop.muon.MuonAdamW`.
    """
    betas = (0.9, 0.95)
    if config.optimizer == "muon":
        divides = config.engine == "deepspeed" and config.zero_stage == 1
        shared = {"rank": rank, "world_size": world_size} if divides else {}
        # bf16 says whether this run's products are bfloat16's; GPUs have that anyway.
        wide = not config.bf16 and not torch.cuda.is_available()
        return MuonAdamW(groups, betas, wide=wide, **shared)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas)
    library = bitsandbytes(
        "train.optimizer=adamw_8bit", "set train.optimizer=adamw, which needs nothing"
    )
    optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(groups, betas=betas)
    return optimizer


class OptimizerState(Protocol):
    """Weights and moments by parameter; every process takes part in each call."""

    def steps(self) -> int:
        """Optimiser steps applied so far; 0 where there are no moments yet."""

    def begin(self, steps: int) -> None:
        """Make room for moments after so many applied steps; before any ``put``."""

    def moments(self, parameter: nn.Parameter) -> tuple[str, ...]:
        """What the optimiser keeps of a parameter, once there is something."""
        return MOMENTS

    def get(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        """The whole master weight (None) or moment, in the parameter's shape."""

    def put(self, parameter: nn.Parameter, moment: str | None, value: Tensor) -> None:
        """Set the whole master weight (None) or moment."""

    def finish(self) -> None:
        """Show the model the weights that were put."""


class WholeState(OptimizerState):
    """Plain PyTorch and ZeRO 0: every process holds everything."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at an optimiser over the model's own parameters."""
        self._optimizer = optimizer

    def steps(self) -> int:
        """See :class:`OptimizerState`."""
        return _steps_in(self._optimizer)

    def begin(self, steps: int) -> None:
        """See :class:`OptimizerState`."""
        held = [p for g in self._optimizer.param_groups for p in g["params"]]
        _make_room(self._optimizer, held, steps)

    def get(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        """See :class:`OptimizerState`."""
        return self._tensor(parameter, moment)

    def put(self, parameter: nn.Parameter, moment: str | None, value: Tensor) -> None:
        """See :class:`OptimizerState`."""
        self._tensor(parameter, moment).copy_(value)

    def finish(self) -> None:
        """Nothing to do: the weights are the model's."""

    def _tensor(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        if moment is None:
            return parameter.data
        state: Tensor = self._optimizer.state[parameter][moment]
        return state


class EightBitState(WholeState):
    """The same of 8-bit AdamW, whose codes and scales are kept as they are."""

    def begin(self, steps: int) -> None:
        """See :class:`OptimizerState`."""
        optimizer: Any = self._optimizer
        for number, group in enumerate(optimizer.param_groups):
            for index, parameter in enumerate(group["params"]):
                optimizer.init_state(group, parameter, number, index)
                optimizer.state[parameter]["step"] = steps

    def moments(self, parameter: nn.Parameter) -> tuple[str, ...]:
        """See :class:`OptimizerState`."""
        held = self._optimizer.state[parameter]
        return tuple(name for name in (*_CODES, *_SCALES) if name in held)


class MuonState(WholeState):
    """The same of Muon beside AdamW: a matrix has one moment, and each process may keep
    those of its own parameters alone."""

    def __init__(self, optimizer: MuonAdamW) -> None:
        """Look at an optimiser over the model's own parameters."""
        super().__init__(optimizer)
        self._muon = optimizer

    def steps(self) -> int:
        """See :class:`OptimizerState`."""
        steps = super().steps()
        if self._muon.world_size > 1:  # this process may have none to step
            most = torch.tensor(steps, device=self._device())
            torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
            steps = int(most)
        return steps

    def begin(self, steps: int) -> None:
        """See :class:`OptimizerState`."""
        for group in self._muon.param_groups:
            kept = (MOMENTUM,) if group[MATRICES] else MOMENTS
            mine = [p for p in group["params"] if self._is_mine(p)]
            _make_room(self._muon, mine, steps, kept)

    def moments(self, parameter: nn.Parameter) -> tuple[str, ...]:
        """See :class:`OptimizerState`."""
        names = (MOMENTUM, *MOMENTS)
        held = self._muon.state.get(parameter, {})
        known = [name in held for name in names]
        there = torch.tensor(known, dtype=torch.uint8, device=self._device())
        self._send(there, parameter)
        return tuple(n for n, is_there in zip(names, there, strict=True) if is_there)

    def get(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        """See :class:`OptimizerState`."""
        if moment is None:
            return parameter.data
        if self._muon.world_size == 1:
            return self._tensor(parameter, moment)
        mine = self._is_mine(parameter)
        whole = self._tensor(parameter, moment) if mine else torch.empty_like(parameter)
        whole = whole.detach().contiguous()
        self._send(whole, parameter)
        return whole

    def put(self, parameter: nn.Parameter, moment: str | None, value: Tensor) -> None:
        """See :class:`OptimizerState`."""
        if moment is None or self._is_mine(parameter):
            self._tensor(parameter, moment).copy_(value)

    def _is_mine(self, parameter: Tensor) -> bool:
        return self._muon.owner(parameter) == self._muon.rank

    def _send(self, value: Tensor, parameter: Tensor) -> None:
        """From the process that keeps a parameter's state to the others."""
        if self._muon.world_size > 1:
            torch.distributed.broadcast(value, src=self._muon.owner(parameter))

    def _device(self) -> torch.device:
        device: torch.device = self._muon.param_groups[0]["params"][0].device
        return device


class FlatState(OptimizerState):
    """ZeRO 1 and 2: each process holds a stretch of all parameters, end to end."""

    def __init__(self, zero: Any) -> None:
        """Look at a ``DeepSpeedZeroOptimizer``."""
        self._zero = zero
        if self.steps():
            self._link()

    def steps(self) -> int:
        """See :class:`OptimizerState`."""
        return _steps_in(self._zero.optimizer)

    def begin(self, steps: int) -> None:
        """See :class:`OptimizerState`."""
        flat = self._zero.single_partition_of_fp32_groups
        _make_room(self._zero.optimizer, flat, steps)
        self._link()

    def get(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        """See :class:`OptimizerState`."""
        whole: Tensor = parameter.get_full_hp_param(moment)  # type: ignore[attr-defined]
        return whole

    def put(self, parameter: nn.Parameter, moment: str | None, value: Tensor) -> None:
        """See :class:`OptimizerState`."""
        value = value.to(parameter.device, torch.float32)
        parameter.set_full_hp_param(value, moment)  # type: ignore[attr-defined]

    def finish(self) -> None:
        """Gather the weights into every process's model."""
        self._zero.update_lp_params()

    def _link(self) -> None:
        """Let parameters find their moments.

        DeepSpeed does so after the first group's first step, when the later groups
        have none yet.
        """
        self._zero._hp_optimizer_states_linked = False
        self._zero._lazy_init_hp_params_optimizer_state()


class PartedState(OptimizerState):
    """ZeRO 3: each process holds a part of every parameter."""

    def __init__(self, zero: Any) -> None:
        """Look at a ``DeepSpeedZeroOptimizer_Stage3``."""
        self._zero = zero

    def steps(self) -> int:
        """See :class:`OptimizerState`."""
        return _steps_in(self._zero.optimizer)

    def begin(self, steps: int) -> None:
        """See :class:`OptimizerState`."""
        flat = self._zero.fp32_partitioned_groups_flat
        _make_room(self._zero.optimizer, flat, steps)

    def get(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        """See :class:`OptimizerState`."""
        whole: Tensor = self._zero.get_full_hp_param(parameter, moment)
        return whole

    def put(self, parameter: nn.Parameter, moment: str | None, value: Tensor) -> None:
        """See :class:`OptimizerState`."""
        # DeepSpeed's own setter of whole tensors knows no padding of the last part.
        here, _ = self._zero._get_fp32_opt_state_partition(parameter, True, moment)
        size = here.numel()
        first = size * self._zero._get_param_partition_rank(parameter)
        flat = value.flatten()[first : first + size].to(here.device, here.dtype)
        here.data.copy_(F.pad(flat, (0, size - flat.numel())))

    def finish(self) -> None:
        """Copy the master weights into the model's parts, gather what stays whole."""
        zero = self._zero
        zero._partition_all_parameters()  # what is whole already is not gathered anew
        for group in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        zero.invalidate_secondary_tensor()  # copies (hpZ) of the weights before
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


def _steps_in(optimizer: torch.optim.Optimizer) -> int:
    counts = [int(held["step"]) for held in optimizer.state.values() if "step" in held]
    return max(counts, default=0)


def _make_room(
    optimizer: torch.optim.Optimizer,
    held: list[Tensor],
    steps: int,
    moments: tuple[str, ...] = MOMENTS,
) -> None:
    for tensor in held:
        room: dict[str, Any] = {"step": torch.tensor(float(steps))}
        room |= {moment: torch.zeros_like(tensor) for moment in moments}
        optimizer.state[tensor] = room
