"""Start a run on the nodes of a Ray cluster: one launcher a node, as under SLURM.

    ray job submit --working-dir . -- python scripts/on_ray.py --nodes 2 --gpus 8 \\
        train my.yaml run.dir=/shared/runs
    python scripts/on_ray.py --nodes 2 --gpus 0 --processes 2 train my.yaml  # on CPUs

Ray chooses the nodes, keeps their GPUs for the run, and stops it with the job; the
processes meet as everywhere (docs/cluster.md), at an address of the first node. The
checkout, or the installed package, models, texts and the run's folder have to lie on
every node under the same path. A node that is lost ends the job: submitted again, it
goes on from the newest checkpoint. Needs ``pip install ray``; any words after the
options are those of ``mtkd``.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GRACE = 240
"""Seconds that a launcher which is asked to stop has for saving."""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="of a node; 0: none")
    parser.add_argument("--cpus", type=int, default=1, help="to keep on a node")
    parser.add_argument("--processes", type=int, help="a node; default: its GPUs")
    parser.add_argument("--address", help="of the cluster; default: Ray's own choice")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="mtkd's")
    return parser


def launcher_words(options: argparse.Namespace, node: int, endpoint: str) -> list[str]:
    """The command of one node.

    Args:
        options: see :func:`arguments`.
        node: its number.
        endpoint: ``ADDRESS:PORT`` of the first one.
    """
    processes = options.processes or options.gpus or 1
    return [
        *(sys.executable, "-m", "experiments.launcher"),
        f"--nnodes={options.nodes}",
        f"--node-rank={node}",
        f"--rdzv-endpoint={endpoint}",
        f"--nproc-per-node={processes}",
        "--max-restarts=0",
        f"--shutdown-timeout={GRACE}",
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        *("-m", "experiments.cli", *options.words),
    ]


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def run_node(words: Sequence[str], environment: dict[str, str]) -> int:
    """Run one node's launcher to its end, in a task of Ray.

    Where Ray ends the task, with the job or by force, Linux tells the launcher (TERM):
    its processes save, and leave.

    Returns:
        Its exit code.
    """
    launcher = subprocess.Popen(
        words, cwd=ROOT, env={**os.environ, **environment}, preexec_fn=_dies_with_us
    )
    return launcher.wait()


def _dies_with_us() -> None:
    parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)


def main(words: Sequence[str] | None = None) -> int:
    """Keep the nodes, start a launcher on each, wait for all."""
    options = arguments().parse_args(words)
    if not options.words:
        arguments().error("give mtkd's words, such as: train my.yaml")
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(address=options.address, log_to_driver=True)
    bundle = {"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {})
    spread = "STRICT_SPREAD" if options.nodes > 1 else "PACK"
    group = placement_group([bundle] * options.nodes, strategy=spread)
    ray.get(group.ready())

    def on(node: int, function: Any) -> Any:
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=node
        )
        return ray.remote(function).options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            max_retries=0,
            scheduling_strategy=strategy,
        )

    def first() -> str:
        return f"{ray.util.get_node_ip_address()}:{free_port()}"

    endpoint = ray.get(on(0, first).remote())
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    running = [
        on(node, run_node).remote(
            launcher_words(options, node, endpoint), {"PYTHONPATH": path}
        )
        for node in range(options.nodes)
    ]
    codes = ray.get(running)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
