"""Whether teachers share what a student should learn of their keys and values.

    python -m experiments.bench.consensus [--teachers zoo:gpt2-prose zoo:qwen-code]
    python -m experiments.bench.consensus --real   # mtkd models fetch smollm2 gemma3

Before a consensus of teachers becomes a target: how many directions of their keys and
values, on the student's layers and tokens, go together on held-out text (generalised
canonical correlations, MAXVAR), and whether a linear probe tells the student's next
token better from those than from as many directions that are private to a teacher, or
its principal components, or from all it says. Texts of the zoo: fitted on the
student's, the penalty chosen on the calibration's, measured on the held-out ones. A
bidirectional teacher has read the next token, so that its probes say nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.bench.measure import one_thread

if TYPE_CHECKING:
    from experiments.bench.consensus.compare import Layer

ZOO = ("zoo:student", "zoo:gpt2-prose", "zoo:qwen-code", "zoo:neox-mixed")
REAL = ("zoo:real/student", "pkg:smollm2", "pkg:gemma3")
"""Student and teachers."""
_KINDS = ("guesses", "private", "components", "whole")


def main() -> int:
    """Measure, print, and say by the code whether something speaks against it."""
    options = _parser().parse_args()
    one_thread()
    import torch

    torch.set_num_threads(1)
    from experiments.assemble.precision import hardware_has_bf16
    from experiments.bench.consensus.compare import measure
    from experiments.bench.consensus.features import School
    from experiments.bench.consensus.probe import (
        classes_of,
        frequency_bits,
        token_bits,
    )
    from experiments.bench.consensus.verdict import objections

    student, *teachers = REAL if options.real else ZOO
    bf16 = options.real and hardware_has_bf16()
    school = School(
        options.student or student,
        options.teachers or teachers,
        tokens=options.tokens,
        settings=["train.bf16=true"] if bf16 else [],
    )
    sets = [
        school.read(school.texts(split, max(1, options.texts // share)))
        for split, share in (("student", 1), ("calibration", 4), ("eval", 2))
    ]
    following = classes_of([each.following for each in sets], options.classes)
    others = float((following[2] == options.classes - 1).double().mean())
    print(
        f"{', '.join(school.names)}: {len(sets[0].tokens)} tokens to fit, "
        f"{len(sets[2].tokens)} held out; of the next token's {options.classes} "
        f"classes the last one holds {others:.0%}. Its bits by frequencies: "
        f"{frequency_bits(following, options.classes):.3f}, by the student's token: "
        f"{token_bits([each.tokens for each in sets], following, options.classes):.3f}",
        flush=True,
    )
    layers = []
    for layer in measure(
        sets, school.widths, school.names, classes=options.classes, most=options.dims
    ):
        layers.append(layer)
        print(f"{layer.side} of layer {layer.layer} are measured", flush=True)
    _show(layers, school.names)
    against = objections(layers, school.names)
    for sentence in against:
        print(f"against it: {sentence}")
    print("verdict:", "drop" if against else "keep")
    return int(bool(against))


def _show(layers: Sequence[Layer], teachers: Sequence[str]) -> None:
    from experiments.bench.consensus.compare import SHARED
    from experiments.bench.consensus.verdict import mean_bits
    from experiments.commands.tables import print_table

    heads = ["", "layer", "above 0.9", "above 0.5", "mean of 10", "probed", "shared"]
    heads += ["best guesses", "best private", "best components", "best whole"]
    heads += ["token tells of shared", "of private"]
    rows = [
        [
            each.side,
            str(each.layer),
            str(sum(value > 0.9 for value in each.agreement)),
            str(each.agreeing),
            f"{statistics.mean(each.agreement[:10]):.2f}",
            str(each.dims),
            f"{each.bits[SHARED]:.3f}",
            *(f"{each.least(kind):.3f}" for kind in _KINDS),
            f"{each.token[SHARED]:.2f}",
            f"{max(v for name, v in each.token.items() if name != SHARED):.2f}",
        ]
        for each in layers
    ]
    title = "held-out agreement of directions, and bits of the next token"
    print_table(title, heads, rows, numbers_from=1)
    rows = [
        [side, *(f"{mean_bits(layers, side, name):.3f}" for name in layers[0].bits)]
        for side in dict.fromkeys(each.side for each in layers)
    ]
    print_table("mean over layers", ["", *layers[0].bits], rows, numbers_from=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="experiments.bench.consensus", description="What teachers share."
    )
    parser.add_argument(
        "--real", action="store_true", help=f"in place of {ZOO}: {REAL}"
    )
    parser.add_argument("--student", help="in place of that one")
    parser.add_argument("--teachers", nargs="+", help="in place of those, two or more")
    parser.add_argument("--texts", type=int, default=96, help="of each domain (96)")
    parser.add_argument("--tokens", type=int, default=128, help="of a text (128)")
    parser.add_argument("--classes", type=int, default=64, help="of tokens (64)")
    parser.add_argument("--dims", type=int, help="directions to probe at most")
    return parser


if __name__ == "__main__":
    sys.exit(main())
