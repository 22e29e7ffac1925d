"""One distiller inside an engine: forward, backward, step, and its whole state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from student.config import TrainConfig
from student.loop.optimizer_state import (
    EightBitState,
    FlatState,
    MuonState,
    OptimizerState,
    PartedState,
    WholeState,
)
from student.loop.rates import Rates

WHOLE_STATES = {"adamw": WholeState, "adamw_8bit": EightBitState, "muon": MuonState}
"""How the state of each ``train.optimizer`` is read where nothing splits it."""


class Prepared:
    """A distiller with its optimiser; :meth:`student.loop.engine.Engine.prepared`."""

    def __init__(
        self,
        accelerator: Any,
        *,
        distiller: nn.Module,
        module: Any,
        optimizer: Any,
        rates: Rates,
        config: TrainConfig,
        linear: Callable[..., Tensor] = functional.linear,
    ) -> None:
        """Hold what accelerate prepared.

        Args:
            accelerator: who did.
            distiller: as it was given.
            module: what runs it: itself, or what DeepSpeed or DDP wraps around it.
            optimizer: the wrapped optimiser.
            rates: learning rates of its groups.
            config: engine, ZeRO stage and clipping.
            linear: PyTorch's own, in whose place ZeRO 3 puts another.
        """
        self.module = module
        self._distiller = distiller
        self._accelerator, self._optimizer = accelerator, optimizer
        self._rates, self._config, self._linear = rates, config, linear
        self._deepspeed = config.engine == "deepspeed"
        self._stage = config.stage_of_deepspeed
        self.gradient_norm: float | None = None
        """2-norm of the last step's gradient over all parameters and processes, before
        clipping; None before the first step."""
        if self._stage == 3:
            self._keep_small_modules_whole()

    def set_learning_rate(self, step: int) -> dict[str, float]:
        """Apply the schedules, weight decay's as well; returns the student's rates, as
        metrics call them."""
        rates, decay = self._rates.at(step), self._rates.decay_at(step)
        groups = self._optimizer.param_groups
        for group, rate, each in zip(groups, rates, decay, strict=True):
            group["lr"], group["weight_decay"] = rate, each
        return self._rates.named(step)

    def accumulate(self) -> Any:
        """Context of one forward and backward pass."""
        return self._accelerator.accumulate(self.module)

    @property
    def at_boundary(self) -> bool:
        """Whether this pass ends an optimiser step."""
        return bool(self._accelerator.sync_gradients)

    def backward(self, loss: Tensor) -> None:
        """Differentiate a pass's share of the step's loss.

        Gradients add up over passes and processes. Both engines would average them,
        which is undone here, so that a loss scale meets losses of the size it knows.
        """
        passes = self._accelerator.gradient_accumulation_steps
        loss = loss * (passes * self._accelerator.num_processes)
        if not self._deepspeed:
            self._accelerator.backward(loss)
            return
        self.module.set_gradient_accumulation_boundary(self.at_boundary)
        self.module.backward(loss)

    def step(self) -> bool:
        """Clip and take an optimiser step, unless a gradient is not finite.

        Returns:
            Whether the step was taken; every process says the same. If not, weights
            and moments are as before and the gradients are gone.
        """
        if not self._deepspeed:
            return self._step_torch()
        norm = self._norm_of_all() if self._stage == 0 else None
        if norm is not None and not math.isfinite(norm):
            # DeepSpeed itself looks at the norm from stage 1 on.
            self.gradient_norm = norm
            self.module.zero_grad()
            return False
        self.module.step()
        applied = bool(self.module.was_step_applied())
        measured = self.module.get_global_grad_norm()  # None where it never looks
        self.gradient_norm = norm if measured is None else float(measured)
        self._forget_gradients()
        if self._stage == 3 and not applied:  # it parted these and went away
            zero = self.module.optimizer
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
        return applied

    def _forget_gradients(self) -> None:
        """Empty the buffers from which DeepSpeed would take this step's gradient for a
        parameter that the next step leaves out.
        """
        zero, held = self.module.optimizer, []
        if self._stage == 3:
            zero.grad_partitions_flat_buffer.zero_()
            held = zero.fp32_partitioned_groups_flat
        elif self._stage > 0:
            held = zero.single_partition_of_fp32_groups
        for partition in held:
            if partition.grad is not None:  # kept where the optimiser is offloaded
                partition.grad.zero_()

    def _step_torch(self) -> bool:
        self._fill_missing_gradients()
        norm = self._accelerator.clip_grad_norm_(
            self.module.parameters(), self._config.max_grad_norm
        )
        self.gradient_norm = float(norm)
        applied = math.isfinite(self.gradient_norm)
        if applied or self._config.fp16:  # the loss scale learns from a bad step
            self._optimizer.step()
        self._optimizer.zero_grad()
        return applied

    def _fill_missing_gradients(self) -> None:
        """Count a parameter that a pass left out as one with gradient 0.

        DeepSpeed does; AdamW by itself would skip it, and the two engines would
        train differently between two outcome passes.
        """
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def _norm_of_all(self) -> float:
        gradients = [p.grad for p in self._distiller.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def optimizer_state(self) -> OptimizerState:
        """Weights and moments as whole tensors; see :class:`OptimizerState`."""
        if self._stage == 0:
            return WHOLE_STATES[self._config.optimizer](self._optimizer.optimizer)
        zero = self.module.optimizer
        return PartedState(zero) if self._stage == 3 else FlatState(zero)

    def loss_scale(self) -> dict[str, float]:
        """What float16 needs to know of the losses so far; empty without it."""
        if not self._config.fp16:
            return {}
        if not self._deepspeed:
            return dict(self._accelerator.scaler.state_dict())
        held = vars(self.module.optimizer.loss_scaler)
        return {k: v for k, v in held.items() if isinstance(v, int | float)}

    def set_loss_scale(self, scale: dict[str, float]) -> None:
        """Go on from :meth:`loss_scale`."""
        if scale and not self._deepspeed:
            self._accelerator.scaler.load_state_dict(scale)
        elif scale:
            vars(self.module.optimizer.loss_scaler).update(scale)

    def _keep_small_modules_whole(self) -> None:
        """Leave bridge, weigher, terms and balancer on every process under ZeRO 3.

        The distiller calls several methods of theirs, where DeepSpeed gathers
        parameters for ``forward`` alone. Beside the student they are small.
        """
        zero = self.module.optimizer
        parts = [
            getattr(self._distiller, name, None)
            for name in ("bridge", "weigher", "terms", "balance")
        ]
        small = [p for part in parts if part is not None for p in part.parameters()]
        for parameter in small:
            if not parameter.ds_persist:
                parameter.ds_persist = True
                zero.persistent_parameters.append(parameter)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have all weights on every process for a while, at most to read them.

        Models then compute as if nobody had parted them, one process as often as it
        likes: DeepSpeed's hooks, by which every process gathers a layer at the same
        time and lets it go again, are off meanwhile, and so is its linear map.
        """
        if self._stage != 3:
            yield
            return
        import deepspeed

        zero = self.module.optimizer
        offload = zero.parameter_offload
        parameters = [
            p
            for p in self._distiller.parameters()
            if not getattr(p, "ds_persist", False)
        ]
        with deepspeed.zero.GatheredParameters(parameters):
            for hooks in (offload.forward_hooks, offload.backward_hooks):
                for hook in hooks:
                    hook.remove()
                hooks.clear()
            parted, functional.linear = functional.linear, self._linear
            try:
                yield
            finally:
                functional.linear = parted
                offload._register_deepspeed_module(offload.module)

    def make_whole(self) -> None:
        """Give the distiller plain parameters again after ZeRO 3."""
        if self._stage != 3:
            return
        import deepspeed

        parameters = list(self._distiller.parameters())
        with deepspeed.zero.GatheredParameters(parameters):
            plain = {
                id(p): nn.Parameter(p.data.clone(), p.requires_grad) for p in parameters
            }
        for module in self._distiller.modules():
            module._parameters = {
                name: None if parameter is None else plain[id(parameter)]
                for name, parameter in module._parameters.items()
            }
