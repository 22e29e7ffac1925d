"""The optimiser step: accelerate over DeepSpeed, or over plain PyTorch.

One engine lives as long as its process and prepares one distiller after another.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from student.config import TrainConfig
from student.distiller import Distiller

LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher says to each of its processes."""


class Engine:
    """Runs optimiser steps; owns precision, accumulation, clipping, resuming."""

    def __init__(self, config: TrainConfig) -> None:
        """Join the process group and start accelerate.

        Args:
            config: batch size, accumulation, ZeRO stage and precision hold for all
                phases of a run.

        Raises:
            ValueError: the settings ask for what this machine lacks.
            RuntimeError: the launcher's processes do not see each other.
        """
        if config.fp16 and not torch.cuda.is_available():
            raise ValueError(
                "train.fp16 needs a GPU and none is visible; use train.bf16=true, "
                "which CPUs run too"
            )
        if config.threads:
            torch.set_num_threads(config.threads)
        self._config = config
        self._environment = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
        self.accelerator = _accelerator(config)
        _assert_whole_world(self.accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return torch.device(self.accelerator.device)

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world_size(self) -> int:
        """Processes that share a step."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return bool(self.accelerator.is_main_process)

    @contextmanager
    def prepared(
        self, distiller: Distiller, config: TrainConfig, total_steps: int
    ) -> Iterator[Prepared]:
        """Train one distiller inside this block, with an optimiser of its own.

        Args:
            distiller: what is trained.
            config: the phase's learning rates and schedule; the rest is the run's.
            total_steps: optimiser steps of the schedule.
        """
        optimizer = torch.optim.AdamW(
            parameter_groups(distiller, config), betas=(0.9, 0.95)
        )
        peaks = [group["lr"] for group in optimizer.param_groups]
        module, wrapped = self.accelerator.prepare(distiller, optimizer)
        schedule = learning_rate_factor(config, total_steps)
        clip = self._config.max_grad_norm if self._config.engine == "torch" else None
        try:
            yield Prepared(self.accelerator, module, wrapped, peaks, schedule, clip)
        finally:
            self.accelerator.free_memory()

    def mean(self, values: Tensor) -> Tensor:
        """Average a tensor over processes."""
        if self.world_size == 1:
            return values
        out: Tensor = self.accelerator.reduce(values, reduction="mean")
        return out

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some process."""
        if self.world_size == 1:
            return flag
        mine = torch.tensor([float(flag)], device=self.device)
        return bool(self.accelerator.reduce(mine, reduction="sum") > 0)

    def barrier(self) -> None:
        """Wait for the other processes."""
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group, so that another engine may start."""
        from accelerate.state import AcceleratorState, GradientState

        if self._config.engine == "deepspeed":
            import deepspeed

            # DeepSpeed also forgets the groups that it keeps for itself.
            deepspeed.comm.destroy_process_group()
        self.accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        for name, value in self._environment.items():  # what follows is not launched
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Prepared:
    """A distiller with its optimiser, inside :meth:`Engine.prepared`."""

    def __init__(
        self,
        accelerator: Any,
        module: nn.Module,
        optimizer: Any,
        peaks: list[float],
        schedule: Callable[[int], float],
        clip: float | None,
    ) -> None:
        """Hold what accelerate prepared; ``clip`` is None where DeepSpeed clips."""
        self._clip = clip
        self._accelerator, self.module = accelerator, module
        self._optimizer, self._peaks = optimizer, peaks
        self._schedule = schedule

    def set_learning_rate(self, step: int) -> float:
        """Apply the schedule; returns the student's learning rate."""
        factor = self._schedule(step)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        return self._peaks[0] * factor

    def accumulate(self) -> Any:
        """Context of one forward and backward pass."""
        return self._accelerator.accumulate(self.module)

    @property
    def at_boundary(self) -> bool:
        """Whether this pass ends an optimiser step."""
        return bool(self._accelerator.sync_gradients)

    def backward(self, loss: Tensor) -> None:
        """Differentiate, clip at the boundary, step."""
        self._accelerator.backward(loss)
        if self._clip is not None and self.at_boundary:
            self._fill_missing_gradients()
            self._accelerator.clip_grad_norm_(self.module.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _fill_missing_gradients(self) -> None:
        """Count a parameter that a pass left out as one with gradient 0.

        DeepSpeed does; AdamW by itself would skip it, and the two engines would
        train differently between two outcome passes.
        """
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def save(self, folder: Path) -> None:
        """Write everything needed to go on from here."""
        self._accelerator.save_state(str(folder))

    def load(self, folder: Path) -> None:
        """Go on from :meth:`save`."""
        self._accelerator.load_state(str(folder))


def parameter_groups(distiller: Distiller, config: TrainConfig) -> list[dict[str, Any]]:
    """Split parameters by learning rate and weight decay; the student comes first.

    The bridge never decays: its maps are calibrated, and one that no loss reaches
    would shrink the target it makes.
    """
    rates = {
        "student": config.learning_rate,
        "weigher": config.router_learning_rate,
        "bridge": config.bridge_learning_rate,
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in distiller.named_parameters():
        if parameter.requires_grad:
            part = name.split(".")[0]
            key = (part, parameter.dim() > 1 and part != "bridge")
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates[part],
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in sorted(
            groups.items(), key=lambda item: (item[0][0] != "student", item[0])
        )
    ]


def learning_rate_factor(
    config: TrainConfig, total_steps: int
) -> Callable[[int], float]:
    """The learning rate at an optimiser step as a share of its peak."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        span = max(1, total_steps - config.warmup_steps)
        done = min(1.0, (step - config.warmup_steps) / span)
        if config.lr_schedule == "cosine":
            return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))
        return 1.0 - done if config.lr_schedule == "linear" else 1.0

    return factor


def _accelerator(config: TrainConfig) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        InitProcessGroupKwargs,
    )

    settings: dict[str, Any] = {
        "gradient_accumulation_steps": config.grad_accum,
        "mixed_precision": "fp16" if config.fp16 else "no",
    }
    if config.engine == "torch":
        # A launcher's variables make accelerate wrap the distiller, of which most
        # steps leave a part out: the outcome's adapters and gates.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        return Accelerator(
            cpu=not torch.cuda.is_available(), kwargs_handlers=[unused], **settings
        )
    _single_process_defaults()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "gloo":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        import deepspeed
        from accelerate import DeepSpeedPlugin
    except ImportError as error:
        raise ValueError(
            f"train.engine is 'deepspeed', which cannot be imported ({error}); "
            "install deepspeed or set train.engine=torch"
        ) from None
    deepspeed.utils.logger.setLevel("WARNING")
    # The shared-memory operator is compiled on first use, which takes a compiler and
    # a minute; gloo gives bitwise the same sums without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=deepspeed_config(config)),
        # Without the backend named, accelerate sees one process on every CPU rank.
        kwargs_handlers=[InitProcessGroupKwargs(backend=backend)],
        **settings,
    )


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """The DeepSpeed settings behind ``train.*``.

    Parameters stay float32 under ``bf16``: products are autocast by the distiller,
    so that both engines compute the same.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": config.grad_accum,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    return settings


def _single_process_defaults() -> None:
    """Stand in for a launcher where there is none."""
    if "RANK" in os.environ:
        return
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(probe.getsockname()[1])


def _assert_whole_world(seen: int) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if seen != launched:
        raise RuntimeError(
            f"launched with WORLD_SIZE={launched}, but accelerate sees {seen} "
            "processes: every process would train alone on the same data; check "
            "train.engine (torch runs one process) and the launcher"
        )
