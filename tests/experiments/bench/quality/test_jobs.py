import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from experiments.bench.quality.jobs import _warm


def work(words):
    """Be a bench whose one process is busy; tells which it is."""
    with ProcessPoolExecutor(1, get_context("spawn"), _warm) as pool:
        print("worker", pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()


@pytest.mark.slow
def test_a_killed_bench_leaves_no_process_that_trains_on(warm, tmp_path):
    log = tmp_path / "log.txt"
    log.touch()
    bench = warm.start(f"{__name__}:work", log=log)
    while not (said := re.search(r"worker (\d+)\n", log.read_text())):
        assert bench.poll() is None, log.read_text()
        time.sleep(0.05)
    worker = int(said[1])
    bench.kill()
    bench.wait(60)
    for _ in range(600):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(worker, 9)
    pytest.fail("the pool's process outlived its parent by half a minute")
