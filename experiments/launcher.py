"""torchrun whose processes meet where no stranger reaches them.

python experiments/launcher.py --nproc-per-node 2 -m experiments.cli train my.yaml

Takes torchrun's options, see :mod:`student.loop.meeting` for where processes meet.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def launch(arguments: Sequence[str]) -> None:
    """Start the processes of this machine, and wait for them.

    Args:
        arguments: torchrun's. Several machines meet at the first one's address,
            ``--rdzv-endpoint ADDRESS:PORT``; on the others ``--node-rank`` says which
            they are, or SLURM does.

    Raises:
        InputError: the first machine cannot listen there.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import record

    from student.loop.meeting import BACKEND, register

    register()
    options = run.parse_args([f"--rdzv-backend={BACKEND}", *arguments])
    node = options.node_rank or int(os.environ.get("SLURM_NODEID") or "0")
    options.node_rank, options.rdzv_conf = 0, f"node={node}"
    options.rdzv_endpoint = options.rdzv_endpoint or "localhost:0"
    record(run.run)(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run :func:`launch`; an error that the user can put right is one line."""
    from align.errors import InputError, exit_code_of

    try:
        launch(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        print(f"launcher: {error}", file=sys.stderr)
        return exit_code_of(error)
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main())
