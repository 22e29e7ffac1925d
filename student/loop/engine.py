"""The optimiser step: accelerate over DeepSpeed, or over plain PyTorch.

One engine lives as long as its process and prepares one distiller after another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from align.errors import InputError, MtkdError, exit_code_of
from align.products.primitive_cache import bound_primitive_caches
from align.schedules import start_of
from align.support.matrices import Layout, hidden_matrices
from student.config import TrainConfig
from student.distiller import Distiller
from student.loop.launch import (
    LAUNCH_VARIABLES,
    assert_whole_world,
    launched_world,
    start_accelerate,
)
from student.loop.muon import LAYOUTS, MATRICES
from student.loop.optimizer_state import build_optimizer
from student.loop.prepared import Prepared
from student.loop.rates import Rates

T = TypeVar("T")
_AMPERE = (8, 0)
"""The compute capability from which on GPUs have TensorFloat-32."""


class OtherProcessError(MtkdError, RuntimeError):
    """What another process of this launch failed with."""

    def __init__(self, rank: int, message: str, exit_code: int) -> None:
        """Repeat its message; end as it does."""
        super().__init__(f"process {rank}: {message}")
        self.exit_code = exit_code


class Engine:
    """Runs optimiser steps; owns precision, accumulation, clipping."""

    def __init__(
        self, config: TrainConfig, samples_per_step: int | None = None
    ) -> None:
        """Join the process group and start accelerate.

        Args:
            config: batch size, accumulation, ZeRO stage and precision hold for all
                phases of a run.
            samples_per_step: samples of one optimiser step over all processes, where
                a run has begun with another number of them; None: what the config
                gives with these.

        Raises:
            ValueError: the settings ask for what this machine lacks, or so many
                processes cannot share a step.
            RuntimeError: the launcher's processes do not see each other.
        """
        _check_hardware(config)
        bound_primitive_caches()
        self._tf32 = torch.backends.cuda.matmul.allow_tf32
        if config.tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
        if config.threads:
            torch.set_num_threads(config.threads)
        world = launched_world()
        at_once = config.batch_size * world
        self.samples_per_step = samples_per_step or at_once * config.grad_accum
        if self.samples_per_step % at_once:
            raise InputError(
                f"this run takes {self.samples_per_step} samples per optimiser step, "
                f"which {world} processes of train.batch_size={config.batch_size} "
                "cannot share evenly; start it with a number of processes that "
                f"divides {self.samples_per_step // config.batch_size}"
            )
        if world % config.zero_hpz_partition_size:
            raise InputError(
                f"train.zero_hpz_partition_size={config.zero_hpz_partition_size} does "
                f"not divide the {world} processes that train into equal groups; give "
                "a divisor, as a rule the GPUs of a node"
            )
        self.accumulation = self.samples_per_step // at_once
        """Forward passes of each process per optimiser step."""
        self._config = config
        self._environment = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
        self._linear = functional.linear
        self.accelerator = start_accelerate(config, self.accumulation)
        assert_whole_world(self.accelerator.num_processes)

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
            distiller: what is trained; whole again on every process afterwards.
            config: the phase's learning rates and schedule; the rest is the run's.
            total_steps: optimiser steps of the phase, for its schedules.
        """
        distiller.timetable.total_steps = total_steps
        groups = parameter_groups(distiller, config)
        places = [group.pop("place") for group in groups]
        decays = [group.pop("decays") for group in groups]
        optimizer = build_optimizer(
            groups, config, rank=self.rank, world_size=self.world_size
        )
        module, wrapped = self.accelerator.prepare(distiller, optimizer)
        prepared = Prepared(
            self.accelerator,
            distiller=distiller,
            module=module,
            optimizer=wrapped,
            rates=Rates(config, places, distiller.timetable, decays),
            config=self._config,
            linear=self._linear,
        )
        try:
            yield prepared
            prepared.make_whole()
        finally:
            self.accelerator.free_memory()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up numbers over processes."""
        if self.world_size == 1:
            return list(values)
        mine = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        every: Tensor = self.accelerator.reduce(mine, reduction="sum")
        return [float(value) for value in every.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some process."""
        if self.world_size == 1:
            return flag
        mine = torch.tensor([float(flag)], device=self.device)
        return bool(self.accelerator.reduce(mine, reduction="sum") > 0)

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def from_main(self, make: Callable[[], T]) -> T:
        """Let the main process do something; every process gets what came of it.

        Raises:
            OtherProcessError: it failed there; the main process raises its own error.
        """
        if self.world_size == 1:
            return make()
        message: list[Any] = [None, None]
        try:
            if self.is_main:
                message = [make(), None]
        except Exception as error:
            message = [None, (str(error), exit_code_of(error))]
            raise
        finally:
            torch.distributed.broadcast_object_list(message, src=0)
        if message[1] is not None:
            raise OtherProcessError(0, *message[1])
        return message[0]  # type: ignore[no-any-return]

    def together(self, work: Callable[[], None]) -> None:
        """Do something on every process; all of them fail where one does.

        Raises:
            OtherProcessError: it failed elsewhere; there it raises its own error.
        """
        failed: Exception | None = None
        try:
            work()
        except Exception as error:
            failed = error
        if self.world_size > 1:
            failure = None if failed is None else (str(failed), exit_code_of(failed))
            said = self.gather(failure)
            other = next((x for x in enumerate(said) if x[1] is not None), None)
            if failed is None and other is not None:
                rank, failure_there = other
                assert failure_there is not None  # by how it was found
                raise OtherProcessError(rank, *failure_there)
        if failed is not None:
            raise failed

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
        if self._config.tf32:
            torch.backends.cuda.matmul.allow_tf32 = self._tf32
        functional.linear = self._linear  # DeepSpeed's ZeRO 3 puts its own in its place
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        for name, value in self._environment.items():  # what follows is not launched
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _check_hardware(config: TrainConfig) -> None:
    if config.fp16 and not torch.cuda.is_available():
        raise InputError(
            "train.fp16 needs a GPU and none is visible; use train.bf16=true, "
            "which CPUs run too"
        )
    if config.tf32 and not torch.cuda.is_available():
        raise InputError(
            "train.tf32 needs a GPU, of Ampere or later, and none is visible; leave it "
            "out: a CPU's products of float32 stay float32"
        )
    if torch.cuda.is_available():
        _check_gpu(config)
    if config.offload != "none" and not torch.cuda.is_available():
        raise InputError(
            f"train.offload={config.offload} moves optimiser state from a GPU to the "
            "CPU's memory and no GPU is visible; set train.offload=none"
        )


def _check_gpu(config: TrainConfig) -> None:
    """Refuse what this process's GPU would leave undone, or do in software."""
    capability = torch.cuda.get_device_capability()
    gpu = f"{torch.cuda.get_device_name()} (compute capability {capability})"
    if config.tf32 and capability < _AMPERE:
        raise InputError(
            f"train.tf32 changes nothing on {gpu}: TensorFloat-32 is of 8.0 and later; "
            "leave it out"
        )
    if config.bf16 is True and not torch.cuda.is_bf16_supported(
        including_emulation=False
    ):
        raise InputError(
            f"train.bf16 would be emulated on {gpu}, more slowly than float32; use "
            "train.fp16=true, or train.bf16=auto, which asks the hardware"
        )


def parameter_groups(distiller: Distiller, config: TrainConfig) -> list[dict[str, Any]]:
    """Split parameters by learning rate and weight decay; the student comes first.

    The bridge never decays: its maps are calibrated, and one that no loss reaches
    would shrink the target it makes. Nor does what a term of the loss or their balancer
    learns. With ``train.optimizer=muon`` the matrices inside the student are a group of
    their own, with the layout of each.
    """
    rates = {
        "student": "learning_rate",
        "weigher": "router_learning_rate",
        "bridge": "bridge_learning_rate",
        "terms": "bridge_learning_rate",
        "balance": "balance_learning_rate",
        "z": "z_learning_rate" if config.z_learning_rate else "bridge_learning_rate",
    }
    undecayed = ("bridge", "z", "terms", "balance")
    muon = config.optimizer == "muon"
    matrices = hidden_matrices(distiller.student) if muon else set()
    lie = distiller.matrix_layouts() if muon else {}
    groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in distiller.named_parameters():
        if parameter.requires_grad:
            part = "z" if name.startswith("bridge.z.") else name.split(".")[0]
            decays = parameter.dim() > 1 and part not in undecayed
            key = (part, decays, id(parameter) in matrices)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": start_of(getattr(config, place)),
            "place": place,
            "weight_decay": start_of(config.weight_decay) if decays else 0.0,
            "decays": decays,
            **({MATRICES: matrix} if muon else {}),
            **(
                {LAYOUTS: [lie.get(id(p), Layout()) for p in parameters]}
                if matrix
                else {}
            ),
        }
        for (part, decays, matrix), parameters in sorted(
            groups.items(), key=lambda item: (item[0][0] != "student", item[0])
        )
        for place in ["matrix_learning_rate" if matrix else rates[part]]
    ]
