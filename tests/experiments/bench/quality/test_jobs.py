import os
import subprocess
import sys
import time

import pytest

POOL = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import os, time
from experiments.bench.quality.jobs import _warm

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), _warm) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


@pytest.mark.slow
def test_a_killed_bench_leaves_no_process_that_trains_on(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    bench = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    worker = int(bench.stdout.readline())
    bench.kill()
    bench.wait()
    for _ in range(600):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(worker, 9)
    pytest.fail("the pool's process outlived its parent by half a minute")
