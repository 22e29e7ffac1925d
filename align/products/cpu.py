"""Keep bf16 matrix products from crashing on CPUs whose AMX tiles do not work.

Some virtual machines report AMX (Advanced Matrix Extensions) and fault when it is
used: the process dies of SIGILL in its first bf16 product, without a message.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import warnings
from functools import lru_cache

import torch

from align.support.children import wait_for

ISA = "ONEDNN_MAX_CPU_ISA"
"""The environment variable with which oneDNN is told what it may use."""
WITHOUT_AMX = "AVX512_CORE_FP16"
"""The most that oneDNN offers below AMX; it still uses what the CPU has."""

_PRODUCT = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); a @ a"
_PATIENCE = 20.0
"""Seconds given to a copy of this process, whose product takes milliseconds."""


@lru_cache(maxsize=1)
def avoid_broken_amx() -> bool:
    """Forbid AMX to this process and its children where using it kills.

    Does nothing without AMX, with a GPU, or where ``ONEDNN_MAX_CPU_ISA`` is set. Takes
    effect when called before the process's first bf16 product.

    Returns:
        Whether AMX was found broken, and forbidden.
    """
    if ISA in os.environ or torch.cuda.is_available() or not _reports_amx():
        return False
    code = _in_copy()
    if code is None:
        tried = subprocess.run([sys.executable, "-c", _PRODUCT], capture_output=True)
        code = tried.returncode
    if code >= 0:  # a signal ends a process with a negative code
        return False
    os.environ[ISA] = WITHOUT_AMX
    return True


def _in_copy() -> int | None:
    """How a forked copy of this process ends that tries a product of bf16.

    A fresh interpreter would import torch for it, seconds of the processor.

    Returns:
        0, or minus the signal of an instruction that does not work; None where nothing
        was learned: no fork here, nobody who may wait for it, the copy was stuck at a
        lock that a thread held, or it ended otherwise.
    """
    if not hasattr(os, "fork"):
        return None
    try:
        code = _forked()
    except OSError:  # no process to be had, or SIGCHLD is ignored and nobody waits
        return None
    return code if code in (0, -signal.SIGILL) else None


def _forked() -> int | None:
    """Its exit code; None: it had to be ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from 3.12 on
        child = os.fork()
    if not child:
        _try_and_end()
    return wait_for(child, _PATIENCE, every=0.002)


def _try_and_end() -> None:
    """In the copy: nothing of the parent's runs as it ends, nothing is printed."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS):
            signal.signal(number, signal.SIG_DFL)  # faulthandler would print a trace
        torch.set_num_threads(1)  # the parent's threads were not copied
        product = torch.ones(64, 64, dtype=torch.bfloat16)
        product @ product
        code = 0
    finally:
        os._exit(code)


def bf16_pays() -> bool:
    """Tell whether bf16 matrix products are faster than float32's on this CPU.

    They are where there are tiles and oneDNN may use them. Where a CPU has them and
    they are forbidden, AVX512-BF16 alone is slower; on one that never had any (AMD's
    from Zen 4 on) it is faster.
    """
    if _reports_amx():
        return "AMX" in os.environ.get(ISA, "AMX")
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def pays(dtype: torch.dtype) -> bool:
    """Tell whether products of a type are no slower than float32's on this CPU.

    Without such products a type of 16 bits is emulated: a forward of a Llama of 135
    million weights took 7 times as long in bfloat16 on a CPU with AVX2 alone.
    """
    if dtype == torch.bfloat16:
        return bf16_pays()
    if dtype == torch.float16:
        check = getattr(torch.cpu, "_is_amx_fp16_supported", None)
        return bool(check and check())
    return True


def _reports_amx() -> bool:
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(check and check())
