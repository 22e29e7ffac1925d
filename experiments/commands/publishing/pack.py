"""``mtkd pack``: a rounded student in whole numbers of a few bits."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from align.foreign.quote import put
from experiments.commands.output import lasting_output
from experiments.commands.parser import Command, option


@lasting_output("the packing")
def pack(options: Namespace) -> int:
    """Pack a student and say what became of its layers."""
    from experiments.making.pack import pack_student
    from experiments.record.progress import waiting

    out = Path(options.out).expanduser()
    with waiting(f"packing {options.student}"):
        made = pack_student(
            options.student, out, bits=options.bits, group=options.group
        )
    put(
        f"{out}: {len(made.layers)} linear layers in {options.bits} bits, "
        f"{made.size / 1e6:.1f} MB of {made.size_before / 1e6:.1f} MB"
    )
    if made.others:
        names = ", ".join(made.others)
        put(f"on no such grid, left as they are: {names}")
    put("transformers loads it with compressed-tensors; the numbers are the student's")
    return 0


PACK = Command(
    name="pack",
    action=pack,
    what="write a student that was rounded while it trained in whole numbers of a few "
    "bits, which transformers loads by compressed-tensors",
    examples=(
        (
            "mtkd pack runs/my/student --bits 4 --out packed",
            "of fake_quant: {bits: 4}, exported in float32",
        ),
        (
            "mtkd pack runs/my/student --bits 4 --group 32 --out packed",
            "of fake_quant: {bits: 4, group: 32}",
        ),
    ),
    options=(
        option("student", metavar="STUDENT", help="the folder of a rounded student"),
        option("--out", required=True, metavar="DIR", help="the new folder"),
        option(
            "--bits",
            type=int,
            choices=range(2, 9),
            default=4,
            help="of a weight, as it was rounded (4)",
        ),
        option(
            "--group",
            type=int,
            default=0,
            metavar="N",
            help="inputs that share a scale, as it was rounded (0: a scale a row)",
        ),
    ),
)
