"""Keep bf16 matrix products from crashing on CPUs whose AMX tiles do not work.

Some virtual machines report AMX (Advanced Matrix Extensions) and fault when it is
used: the process dies of SIGILL in its first bf16 product, without a message.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache

import torch

ISA = "ONEDNN_MAX_CPU_ISA"
"""The environment variable with which oneDNN is told what it may use."""
WITHOUT_AMX = "AVX512_CORE_FP16"
"""The most that oneDNN offers below AMX; it still uses what the CPU has."""

_PRODUCT = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); a @ a"


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
    tried = subprocess.run([sys.executable, "-c", _PRODUCT], capture_output=True)
    if tried.returncode >= 0:  # a signal ends a process with a negative code
        return False
    os.environ[ISA] = WITHOUT_AMX
    return True


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
