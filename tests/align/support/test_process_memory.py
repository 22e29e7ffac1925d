import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from align.support.process_memory import give_back, highest, resident

ROOT = Path(__file__).parents[3]
MEBI = 2**20

linux = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="needs Linux's account"
)


def test_the_peak_holds_what_was_freed_since():
    before = resident()
    held = bytearray(64 * MEBI)
    del held
    assert highest() - before > 60 * MEBI


@linux
def test_the_peak_is_not_that_of_the_process_which_started_this():
    """Fails with ``getrusage``, whose peak passes from a process to its child."""
    held = bytearray(256 * MEBI)
    code = "from align.support.process_memory import highest; print(highest())"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    del held
    assert int(said.stdout) < 200 * MEBI, said.stderr


@linux
@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc's allocator"
)
def test_room_beneath_what_lives_goes_back_to_the_system():
    """Pieces too small to be mapped alone: what lies above keeps their room."""
    held = [torch.ones(2**14) for _ in range(1024)]  # 64 KiB each
    before = resident()
    del held[:-1]
    give_back()
    assert before - resident() > 48 * MEBI
