"""Stands in for training: as many ranks, the same signals, the same state file.

Adds one per step over all ranks, saves when asked to stop, goes on from there. It
takes ``steps=N`` and ``pause=SECONDS`` beside what the script gives it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
run = Path(given["run.dir"]) / given["run.name"]
steps, pause = int(given.get("steps", "3")), float(given.get("pause", "0"))
rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

asked_to_stop = False


def stop(signum, frame):
    global asked_to_stop
    asked_to_stop = True


signal.signal(signal.SIGTERM, stop)


def total(value: int) -> int:
    """Sum over ranks, by the real backend where there are several."""
    if world == 1:
        return value
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    tensor = torch.tensor([value])
    dist.all_reduce(tensor)
    return int(tensor)


def save(step: int, finished: bool) -> None:
    if rank == 0:
        state = {"saved": True, "finished": finished, "step": step, "world": world}
        part = run / ".state.json"
        part.write_text(json.dumps(state))
        part.replace(run / "state.json")


first = 0
if (run / "state.json").exists():
    first = json.loads((run / "state.json").read_text())["step"]
print(f"rank {rank} of {world} begins at step {first}", flush=True)
for step in range(first, steps):
    if total(int(asked_to_stop)):
        save(step, finished=False)
        print(f"rank {rank} stopped at step {step}", flush=True)
        sys.exit(1)
    total(1)
    if rank == 0:
        with (run / "steps.txt").open("a") as file:
            file.write(f"{step}\n")
    time.sleep(pause)
save(steps, finished=True)
print(f"rank {rank} finished", flush=True)
