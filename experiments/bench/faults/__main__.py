"""Kill a five-phase run of two processes at random moments; nothing may be lost.

    python -m experiments.bench.faults --kills 50 [--seed 0] [--keep FOLDER]

Each time the run is started again by the same command. At the end it is compared with
a run that nobody disturbed: every student byte for byte, every line of the metrics.
The exit status is 1 where anything differs, or where the run ended before it had been
killed so often. Launchers and processes are forked from this interpreter, which has
imported everything: most of a launch is imports.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

PHASES = ("dual", "multi_basic", "real_multi", "routing", "z_space")
WAYS = ("all processes", "one process", "the launcher", "TERM to the launcher")


def main() -> int:
    """Run undisturbed, run disturbed, compare."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.faults", description=__doc__.splitlines()[0]
    )  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=50, help="how often (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--keep", type=Path, help="folder to work in and keep")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error(f"--kills is {options.kills}; give 1 or more")
    os.environ.update(
        OMP_NUM_THREADS="1",
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        GLOO_SOCKET_IFNAME="lo",
    )
    with tempfile.TemporaryDirectory(prefix="mtkd-faults-") as scratch:
        return _compare(options.keep or Path(scratch), options.kills, options.seed)


def _compare(folder: Path, kills: int, seed: int) -> int:
    from experiments.bench.faults import two_ranks as two
    from teacher.zoo import build_zoo

    models = build_zoo(scale="tiny", progress=False)["student"].parent
    two.import_all(models)
    steps = max(4, -(-kills * 3 // (2 * len(PHASES))))
    runs = [folder / "undisturbed", folder / "disturbed"]
    configs = [two.write_config(run, models, PHASES, steps) for run in runs]
    began = time.monotonic()
    first = two.fork(configs[0], runs[0] / "log.txt")
    first.join()
    if first.exitcode:
        print(f"the undisturbed run failed; see {runs[0] / 'log.txt'}")
        return 1
    spent = time.monotonic() - began
    print(f"undisturbed: {len(PHASES)} phases of {steps} steps in {spent:.0f} s")
    plan = Plan(kills, len(PHASES) * steps, spent, random.Random(seed))
    done = _disturb(configs[1], runs[1], plan)
    equal = _verdict(runs[0] / "run", runs[1] / "run", steps)
    print(f"killed {done} times of {kills}, in {time.monotonic() - began:.0f} s in all")
    return 0 if equal and done == kills else 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, how and when."""

    kills: int
    steps: int
    """Of the whole run."""
    seconds: float
    """That the undisturbed run took."""
    draw: random.Random

    def wait(self, done: int, steps: int) -> float:
        """Seconds to a kill, so that what is left of the run lasts for all of them.

        Args:
            done: kills so far.
            steps: optimiser steps so far.
        """
        share = (self.steps - steps) / self.steps / (self.kills - done)
        return self.draw.uniform(0.0, share * self.seconds)


def _disturb(config: Path, folder: Path, plan: Plan) -> int:
    """Start and kill until it was killed often enough and has finished; count kills."""
    from experiments.bench.faults import two_ranks as two

    done, run = 0, folder / "run"
    while not two.finished(run):
        process, struck = two.fork(config, folder / "log.txt"), False
        if done < plan.kills and _wait_for_work(process, run):
            time.sleep(plan.wait(done, _steps(run)))
            struck = process.exitcode is None
        if struck:
            way = plan.draw.choice(WAYS)
            done += 1
            print(f"kill {done}: {way}, {_where(run)}", flush=True)
            _strike(process, way)
        process.join()
        two.bury(folder, leader=process.pid)
        if process.exitcode and not struck:
            said = (folder / "log.txt").read_text(errors="replace")[-3000:]
            raise SystemExit(f"a launch failed by itself:\n{said}")
    return done


def _wait_for_work(process: BaseProcess, run: Path) -> bool:
    """Whether this launch began to write metrics before it ended."""
    file = run / "metrics.jsonl"
    before = file.stat().st_mtime if file.exists() else 0.0
    while process.exitcode is None:
        if file.exists() and file.stat().st_mtime > before:
            return True
        time.sleep(0.05)
    return False


def _strike(process: BaseProcess, way: str) -> None:
    assert process.pid is not None
    ranks = _children(process.pid)
    if way == "all processes":
        os.killpg(process.pid, signal.SIGKILL)
    elif way == "one process" and ranks:
        _kill(ranks[-1])
    elif way == "the launcher":
        process.kill()
    else:
        process.terminate()


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in file.read_text().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _steps(run: Path) -> int:
    """Optimiser steps in the metrics; 0 while a line is half written."""
    from experiments.bench.faults import two_ranks as two

    try:
        return sum(line["kind"] == "train" for line in two.metrics(run))
    except (OSError, ValueError):
        return 0


def _where(run: Path) -> str:
    from experiments.bench.faults import two_ranks as two

    try:
        last = two.metrics(run)[-1]
    except (OSError, ValueError, IndexError):
        return "before the first line"
    return f"after {last['kind']} of {last['phase']} step {last.get('step', '-')}"


def _verdict(expected: Path, resumed: Path, steps: int) -> bool:
    from experiments.bench.faults import two_ranks as two

    students = two.weights(expected)
    lines, theirs = two.metrics(expected), two.metrics(resumed)
    taken = [(x["phase"], x["step"]) for x in theirs if x["kind"] == "train"]
    checks = {
        f"{len(students)} students, byte for byte": two.weights(resumed) == students,
        f"{len(lines)} lines of metrics": lines == theirs,
        "every step once": taken == [(p, s + 1) for p in PHASES for s in range(steps)],
    }
    for name, kept in checks.items():
        print(f"{name}: {'equal' if kept else 'DIFFERENT'}")
    return all(checks.values())


if __name__ == "__main__":
    sys.exit(main())
