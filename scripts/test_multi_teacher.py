"""Try the platform on this machine: its contracts, its models, one step of every phase.

    python scripts/test_multi_teacher.py               # everything, in two minutes
    python scripts/test_multi_teacher.py contracts     # some of contracts, zoo, phases

What `tests/` proves on a developer's machine is not tried again. This answers what
somebody asks of a new machine: do the libraries there do what every plugin is promised,
do models of five families load and say what they should, and does a run go through.
Exit status 1 when something does not hold.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = "Routers learn from the outcome: un + believable = unbelievable, 深度 KV\r\n"
TEACHERS = ("gpt2-prose", "qwen-code", "neox-mixed", "bert-mixed", "t5-mixed")

Trial = tuple[str, Callable[[], str]]
"""A fact, and what tries it: gives what was seen, raises where it does not hold."""


def contracts() -> Iterator[Trial]:
    """What everything that comes with the platform promises, kind by kind."""
    from experiments.config.presets import load_registry
    from plugins.contracts.check import CONTRACTS, assert_contract

    registry = load_registry()

    def kept(kind: str) -> str:
        for name in registry.names(kind):
            assert_contract(kind, registry.get(kind, name))
        return ", ".join(registry.names(kind))

    for kind in CONTRACTS:
        if registry.names(kind):
            yield (
                f"every {kind.replace('_', ' ')} keeps its contract",
                partial(kept, kind),
            )


def zoo() -> Iterator[Trial]:
    """What teachers of five families say about one text; built where need be."""
    from align import CausalCharIoUAligner, check_causal, encode_batch
    from teacher import TeacherKVExtractor

    def read(name: str) -> str:
        student = TeacherKVExtractor("zoo:tiny/student").loaded.tokenizer
        extractor = TeacherKVExtractor(f"zoo:tiny/{name}")
        (kv,) = extractor.extract_kvs([TEXT])
        assert kv.k.isfinite().all() and kv.v.isfinite().all(), "not finite"
        mine, theirs = (
            encode_batch(t, [TEXT]) for t in (student, extractor.loaded.tokenizer)
        )
        aligned = CausalCharIoUAligner()(mine, theirs)
        check_causal(aligned, mine, theirs)
        return f"{kv.num_layers} layers, {kv.num_tokens} tokens, none reads the future"

    for name in TEACHERS:
        yield f"{name} loads, and reaches the student's tokens", partial(read, name)


def phases() -> Iterator[Trial]:
    """One optimiser step of each of the five phases, and what is left of them."""
    from experiments.config.phase_choice import PHASES
    from experiments.config.tree import load_config
    from experiments.run.driver import run_training

    def run(folder: str) -> str:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        settings = {
            "run": {"dir": folder, "name": "try"},
            "student": {"model": "zoo:tiny/student"},
            "teachers": {name: f"zoo:tiny/{name}" for name in TEACHERS},
            "data": {"max_length": 32, "train_samples": 16, "eval_samples": 4},
            "train": {
                **{"steps": 1, "batch_size": 2, "calibration_samples": 8},
                **{"engine": "torch", "threads": 1},
            },
            "phase": {"all": {"loss": {"outcome_every": 1}}},
            "baselines": {"ce_only": False, "single_teachers": "none"},
        }
        path = run_training(load_config(settings))
        model = AutoModelForCausalLM.from_pretrained(path / "student")
        ids = AutoTokenizer.from_pretrained(path / "student")(TEXT, return_tensors="pt")
        with torch.no_grad():
            assert model(ids.input_ids).logits.isfinite().all(), "not finite"
        return f"{len(PHASES)} phases, and plain transformers loads the student"

    def tried() -> str:
        with tempfile.TemporaryDirectory() as folder:
            return run(folder)

    yield "a run goes through", tried


PARTS = {part.__name__: part for part in (contracts, zoo, phases)}


def main(words: list[str]) -> int:
    """Try the named parts, or all; gives the exit status."""
    if {"-h", "--help"} & set(words):
        print(f"{__doc__}\nParts: {', '.join(PARTS)}.")
        return 0
    for word in words:
        if word not in PARTS:
            print(f"no part is called {word!r}; give some of {', '.join(PARTS)}")
            return 2
    sys.path.insert(0, str(ROOT))
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    return 1 if show(part for word in words or PARTS for part in PARTS[word]()) else 0


def show(trials: Iterator[Trial]) -> int:
    """Try, print a line each, and give the number that failed."""
    failed = passed = 0
    for fact, function in trials:
        started = time.perf_counter()
        try:
            shown, mark = function(), "ok    "
            passed += 1
        except Exception as error:  # one that fails must not hide the others
            shown, mark = f"{type(error).__name__}: {error}", "FAILED"
            failed += 1
        seconds = time.perf_counter() - started
        print(f"{mark} {seconds:5.1f} s  {fact}: {shown}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
