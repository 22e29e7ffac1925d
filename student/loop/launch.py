"""Start accelerate, over DeepSpeed or plain PyTorch, with or without a launcher.

Who only asks for its rank, as every command does, imports no torch here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from align.errors import InputError, RunError
from align.support.quiet import quiet_libraries
from student.config import TrainConfig

LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher says to each of its processes."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

MEETING = "MTKD_MEETING"
"""Environment variable: a file in which the processes of one machine find each other,
in a folder that is the user's alone."""


def launched_world() -> int:
    """How many processes the launcher says there are."""
    return int(os.environ.get("WORLD_SIZE") or "1")


def launched_rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK") or "0")


@dataclass(frozen=True, slots=True)
class Parting:
    """The processes of a launch, the last of which hold teachers alone."""

    students: int
    """Those that train, the first."""
    teachers: int
    rank: int
    """Of this process among all of them."""

    @property
    def teaches(self) -> bool:
        """Whether this process holds teachers."""
        return self.rank >= self.students

    @classmethod
    def of_launch(cls, teachers: int) -> Parting:
        """What the launcher started.

        Raises:
            InputError: nobody would be left to train.
        """
        world = launched_world()
        if world <= teachers:
            raise InputError(
                f"train.teacher_ranks={teachers} leaves none of {world} processes to "
                "train; start more, such as python -m experiments.launcher "
                f"--nproc-per-node {teachers + 1} -m experiments.cli train …, or set "
                "it to 0"
            )
        return cls(world - teachers, teachers, launched_rank())

    def store(self) -> Any:
        """Where all processes meet, apart from where those that train do.

        Raises:
            InputError: no launcher says where.
        """
        import torch.distributed as dist

        world = self.students + self.teachers
        keep_to_loopback(world)
        if file := os.environ.get(MEETING):
            file = f"{file}.teachers"
            return _of_this_life(dist.FileStore(file, world))  # type: ignore[attr-defined]
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            raise InputError(
                "train.teacher_ranks needs a launcher in whose store processes meet; "
                "start them by python -m experiments.launcher, or by torchrun"
            )
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=False, wait_for_workers=False
        )
        return _of_this_life(dist.PrefixStore("teachers", store))  # type: ignore[attr-defined]

    @contextmanager
    def among_students(self) -> Iterator[None]:
        """Be, inside this block, one of the processes that train, as if a launcher had
        started these alone."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE") or "0")
        first = self.rank - int(os.environ.get("LOCAL_RANK") or "0")
        names = {"WORLD_SIZE": self.students}
        if here:
            names["LOCAL_WORLD_SIZE"] = min(here, self.students - first)
        before = {name: os.environ.get(name) for name in names}
        os.environ.update({name: str(value) for name, value in names.items()})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def without_launcher() -> Iterator[None]:
    """Be one process alone inside this block, whatever launcher started it."""
    said = {name: os.environ.pop(name, None) for name in LAUNCH_VARIABLES}
    try:
        yield
    finally:
        for name, value in said.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def start_accelerate(config: TrainConfig, accumulation: int) -> Any:
    """Join the process group.

    Args:
        config: engine, precision and ZeRO stage.
        accumulation: forward passes per optimiser step of this process.

    Returns:
        An ``accelerate.Accelerator``.
    """
    quiet_libraries()
    import torch
    from accelerate import Accelerator
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        InitProcessGroupKwargs,
    )

    settings: dict[str, Any] = {
        "gradient_accumulation_steps": accumulation,
        "mixed_precision": "fp16" if config.fp16 else "no",
    }
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if config.engine == "torch":
        # An earlier run of this process by the other engine leaves it, and accelerate
        # goes by it.
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
        if "RANK" in os.environ:
            _meet(backend)
        # A launcher's variables make accelerate wrap the distiller, of which most
        # steps leave a part out: the outcome's adapters and gates.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        return Accelerator(
            cpu=not torch.cuda.is_available(), kwargs_handlers=[unused], **settings
        )
    _single_process_defaults()
    if backend == "gloo":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
        from accelerate import DeepSpeedPlugin
        from deepspeed.constants import default_pg_timeout
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    except ImportError as error:
        raise InputError(
            f"train.engine is 'deepspeed', which cannot be imported ({error}); "
            "install deepspeed or set train.engine=torch"
        ) from None
    deepspeed.utils.logger.setLevel("WARNING")
    # The shared-memory operator is compiled on first use, which takes a compiler and
    # a minute; gloo gives bitwise the same sums without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _meet(backend, default_pg_timeout)
    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(
            hf_ds_config=deepspeed_config(config, accumulation)
        ),
        # Without the backend named, accelerate sees one process on every CPU rank.
        kwargs_handlers=[InitProcessGroupKwargs(backend=backend)],
        **settings,
    )
    # Under a live ZeRO-3 config transformers would load every model in parts: empty
    # teachers, or a wait without end where only some processes load one.
    unset_hf_deepspeed_config()
    return accelerator


def deepspeed_config(config: TrainConfig, accumulation: int) -> dict[str, Any]:
    """The DeepSpeed settings behind ``train.*``.

    Parameters stay float32 under ``bf16``: products are autocast by the distiller,
    so that both engines compute the same.
    """
    zero: dict[str, Any] = {"stage": config.stage_of_deepspeed}
    if config.offload == "optimizer":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if config.zero_hpz_partition_size > 1:
        zero["zero_hpz_partition_size"] = config.zero_hpz_partition_size
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    return settings


def _single_process_defaults() -> None:
    """Stand in for a launcher where there is none."""
    if not os.environ.get("RANK"):
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")


def _meet(backend: str, patience: timedelta | None = None) -> None:
    """Make the process group, listening on nothing that it can do without.

    One process opens no socket. Several on one machine meet in a file, where the
    launcher names one, and listen on loopback; on several machines in the launcher's
    store, and listen where ``GLOO_SOCKET_IFNAME`` or ``NCCL_SOCKET_IFNAME`` say.

    Args:
        backend: of several processes.
        patience: how long they wait for each other; None leaves it to PyTorch.
    """
    import torch

    world, rank = launched_world(), launched_rank()
    if world == 1:
        from student.loop.alone import join_alone

        join_alone()
        return
    keep_to_loopback(world)
    store: Any = None
    if file := os.environ.get(MEETING):
        store = _of_this_life(torch.distributed.FileStore(file, world))  # type: ignore[attr-defined]
    local = int(os.environ.get("LOCAL_RANK") or "0")
    torch.distributed.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=world,
        timeout=patience,
        # As DeepSpeed would: NCCL then builds later groups from this one.
        device_id=torch.device("cuda", local) if backend == "nccl" else None,
    )


def _of_this_life(store: Any) -> Any:
    """A store in which nothing stands of the processes that a launcher has started
    again: they met under the same names."""
    import torch.distributed as dist

    life = os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0"
    return dist.PrefixStore(f"life-{life}", store)  # type: ignore[attr-defined]


def patience_of(engine: str) -> timedelta:
    """How long the processes that train wait for each other over gloo.

    Args:
        engine: ``train.engine``; DeepSpeed has a variable for it.
    """
    from torch.distributed.constants import default_pg_timeout

    minutes = os.environ.get("DEEPSPEED_TIMEOUT") if engine == "deepspeed" else None
    return timedelta(minutes=int(minutes)) if minutes else default_pg_timeout


def keep_to_loopback(world: int) -> None:
    """Have processes listen on loopback alone where all are on this machine."""
    if _on_one_machine(world):
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, _loopback())


def _on_one_machine(world: int) -> bool:
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or "0")
    return here == world or os.environ.get("MASTER_ADDR") in LOOPBACK


def _loopback() -> str:
    """The loopback interface: ``lo``, or ``lo0`` on systems that number it."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name in ("lo", "lo0")), "lo")


def assert_whole_world(processes: int) -> None:
    """See that the processes see each other.

    Args:
        processes: processes that accelerate counts.

    Raises:
        RuntimeError: the launcher started another number.
    """
    launched = launched_world()
    if processes != launched:
        raise RunError(
            f"launched with WORLD_SIZE={launched}, but accelerate sees {processes} "
            "processes: every process would train alone on the same data; check "
            "train.engine (torch runs one process) and the launcher"
        )
