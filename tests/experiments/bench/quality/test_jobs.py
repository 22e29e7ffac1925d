import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest

from align.errors import InputError
from experiments.bench.quality.arms import ARMS
from experiments.bench.quality.jobs import _warm, work_through
from experiments.bench.quality.train import Setup, config_of
from experiments.config.packaged import config_path
from experiments.config.tree import save_config
from experiments.record.history import write_json


def work(words):
    """Be a bench whose one process is busy; tells which it is."""
    with ProcessPoolExecutor(1, get_context("spawn"), _warm) as pool:
        print("worker", pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()


def test_what_was_trained_under_other_settings_is_not_compared(tmp_path):
    """It would be the baseline of arms that differ from it in more than teachers."""
    base, arm = config_path("quality_zoo"), ARMS["ce"]

    def bed(*settings):
        return Setup(base, tmp_path, 300, settings)

    light = bed("train.weight_decay=0.01", "train.bf16=true")
    run = tmp_path / "ce" / "seed-0"
    run.mkdir(parents=True)
    save_config(config_of(light, arm, 0), run / "config.yaml")
    write_json(light.result(arm, 0), {"cpu_s": 1.0})

    # What a run keeps of ``auto`` is what it came to.
    kept = bed("train.weight_decay=0.01", "train.bf16=auto")
    for same in (light, kept):
        assert work_through(same, [arm], [0], 1) == {}
    with pytest.raises(
        InputError, match=r"weight_decay: stored 0.01, config 0.3.*--out"
    ):
        work_through(bed(), [arm], [0], 1)


def test_a_bed_that_was_moved_is_compared(tmp_path):
    """Its folders, and those of the texts, are no settings."""
    base, arm = config_path("quality_zoo"), ARMS["ce"]
    lain = Setup(base, tmp_path / "before", 300, ("data.train=[/old/a.txt]",))
    moved = Setup(base, tmp_path / "now", 300, ("data.train=[/new/a.txt]",))
    run = moved.runs(arm) / "seed-0"
    run.mkdir(parents=True)
    save_config(config_of(lain, arm, 0), run / "config.yaml")
    write_json(moved.result(arm, 0), {"cpu_s": 1.0})
    assert work_through(moved, [arm], [0], 1) == {}
    other = replace(moved, more=(*moved.more, "run.seed=5"))
    with pytest.raises(InputError, match=r"run\.seed: stored 0, config 5"):
        work_through(other, [arm], [0], 1)


def test_a_teacher_that_was_adapted_on_other_text_is_not_asked(tmp_path):
    base, arm = config_path("quality_zoo"), ARMS["qwen-code-adapted"]
    (teacher,) = arm.adapted
    bed = Setup(base, tmp_path, 300, ("data.max_length=64",))
    kept = {"cpu_s": 1.0, "bits": {}, "settings": ["data.max_length=128"]}
    write_json(bed.adapting(teacher), kept)
    with pytest.raises(InputError, match=r"adapted under other .*max_length=64.*--out"):
        work_through(bed, [arm], [0], 1)


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
