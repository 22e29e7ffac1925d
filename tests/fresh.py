"""Code in fresh processes, which need not import torch one after another."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_EACH = """
import json, multiprocessing, sys, traceback
import torch
{code}
def answered(value):
    try:
        return [True, answer(value)]
    except BaseException:
        return [False, traceback.format_exc()]
if __name__ == "__main__":
    # one process a value, forked off one that has imported nothing of ours
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        answers = pool.map(answered, json.loads(sys.argv[1]), chunksize=1)
    print(json.dumps(answers))
"""


def answers(
    code: str, values: Sequence[Any], environ: Mapping[str, str] | None = None
) -> list[Any]:
    """What code says of each value, in a process that has met no other.

    Args:
        code: defines ``answer(value)``; values and answers are what JSON holds.
        values: one a process; in each nothing is imported but torch.
        environ: of these processes; None: as here.

    Returns:
        The answers; where one raises, an ``AssertionError`` with its traceback, for
        its test to raise.
    """
    command = [sys.executable, "-c", _EACH.format(code=code), json.dumps(values)]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [
        answer if kept else AssertionError(answer)
        for kept, answer in json.loads(done.stdout.splitlines()[-1])
    ]


def given(answer: Any) -> Any:
    """An answer, or the failure in its place raised."""
    if isinstance(answer, AssertionError):
        raise answer
    return answer
