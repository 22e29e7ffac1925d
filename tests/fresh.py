"""Code in fresh processes, which need not import torch one after another."""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.processor_time import servers

ROOT = Path(__file__).parents[1]
_EACH = """
import gc
gc.disable()  # what is imported stays; and a search for garbage copies it in each child
import json, os, sys, traceback
import torch

def answered(code, value):
    try:
        names = {"__name__": "fresh"}
        exec(code, names)
        return [True, names["answer"](value)]
    except BaseException:
        return [False, traceback.format_exc()]

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what is printed is no answer
for line in sys.stdin:
    code, value, environ = json.loads(line)
    reader, writer = os.pipe()
    if not os.fork():  # off one that has imported nothing of ours
        os.environ.clear()
        os.environ.update(environ)
        with os.fdopen(writer, "w") as out:
            json.dump(answered(code, value), out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as given:
        text = given.read() or '[false, "the process died"]'
    os.wait()
    print(text, file=answers, flush=True)
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
    asked, said = _server()
    told = []
    for value in values:
        line = [code, value, dict(os.environ if environ is None else environ)]
        asked.write(json.dumps(line) + "\n")
        asked.flush()
        kept, answer = json.loads(said.readline())
        told.append(answer if kept else AssertionError(answer))
    return told


@cache
def _server() -> tuple[IO[str], IO[str]]:
    """The process that the others are forked off, from the first that is asked for to
    the last test."""
    server = subprocess.Popen(
        [sys.executable, "-c", _EACH],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin and server.stdout
    servers.add(server.pid)
    atexit.register(server.kill)
    return server.stdin, server.stdout


def given(answer: Any) -> Any:
    """An answer, or the failure in its place raised."""
    if isinstance(answer, AssertionError):
        raise answer
    return answer
