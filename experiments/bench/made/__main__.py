"""What made and rounded students lose, win back and cost, as one table.

    python -m experiments.bench.made [--steps 200] [--budget 10]
    python -m experiments.bench.made --real --steps 60     # SmolLM2, no zoo teacher
    python -m experiments.bench.made --part rounded --bits 3
    python -m experiments.bench.made --part costs

Half of a model's layers, those that the loss owes most to, healed by the whole (keys
and values, hidden states, outputs, next token); the same cut by the next token alone,
for as many steps and for as many processor seconds; the same sizes from random weights
under the same teaching. The whole at 4 bits, or --bits, under its unrounded self,
against the whole trained on as long and rounded afterwards; either also with biases
and scales corrected. What a transform adds to a
bare step. What the evaluator of speed times, against transformers' own generate.

Finished arms are kept in --out and not done again, and a run goes on from its last
checkpoint; --budget begins nothing once so many minutes are over. The exit status is 1
where a bar is missed, 3 where arms are left to do.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.bench.measure import Bar, one_thread, show

if TYPE_CHECKING:
    from experiments.bench.made.arms import Arm, Bed, Outcome

PARTS = ("healed", "rounded", "costs", "speed")


def folder_of(out: Path, source: str) -> Path:
    """Where a source's runs go: inside ``out``, whatever the source is called."""
    return out / re.sub(r"[^A-Za-z0-9]+", "-", source).strip("-")


class BudgetSpent(Exception):
    """Time is over before all arms are done."""


def main() -> int:
    """Train what is left, print the table, and say whether all bars are kept."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.made", description="Measure made and rounded students."
    )
    parser.add_argument("--part", choices=("all", *PARTS), default="all")
    parser.add_argument("--source", default="zoo:neox-mixed", help="what is cut")
    parser.add_argument("--real", action="store_true", help="cut pkg:smollm2")
    parser.add_argument("--layers", type=int, default=0, help="kept (half)")
    parser.add_argument("--steps", type=int, default=200, help="of healing (200)")
    parser.add_argument("--rounding-steps", type=int, default=100, help="(100)")
    parser.add_argument("--bits", type=int, default=4, help="of a weight (4)")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of steps (9)")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="MIN")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-made"))
    parser.add_argument("--set", nargs="*", default=[], help="settings of every arm")
    options = parser.parse_args()
    one_thread()
    from experiments.bench.made.arms import Bed
    from experiments.bench.made.costs import bars as costs
    from experiments.bench.made.speed import bars as speed

    source = "pkg:smollm2" if options.real else options.source
    bed = Bed(
        source=source,
        layers=options.layers,
        steps=options.steps,
        rounding_steps=options.rounding_steps,
        bits=options.bits,
        folder=folder_of(options.out, source),
        more=tuple(options.set),
    )
    bench = _Bench(bed, options.budget * 60)
    parts = PARTS if options.part == "all" else (options.part,)
    bars: list[Bar] = []
    try:
        if "healed" in parts:
            bars += bench.healed()
        if "rounded" in parts:
            bars += bench.rounded()
        if "costs" in parts:
            batch = (2, 64) if options.real else (4, 128)
            bars += costs(source, options.rounds, *batch)
        if "speed" in parts:
            bars += speed(source, options.rounds, (1, 8))
    except BudgetSpent as left:
        print(f"the budget is spent; left to do: {left}; the same command goes on")
        return 3
    finally:
        bench.table()
    return 0 if show(bars) else 1


class _Bench:
    """Arms in their order, and how much time is left."""

    def __init__(self, bed: Bed, budget: float) -> None:
        self.bed, self._end = bed, time.monotonic() + budget
        self.done: dict[str, Outcome] = {}

    def run(self, arm: Arm) -> Outcome:
        """An arm's outcome, trained now where it is not there."""
        from experiments.bench.made.arms import result_of, train

        outcome = result_of(self.bed, arm.name)
        if outcome is None:
            if time.monotonic() > self._end:
                raise BudgetSpent(arm.name)
            outcome = train(self.bed, arm)
        self.done[arm.name] = outcome
        return outcome

    def healed(self) -> list[Bar]:
        """The cut, healed and otherwise."""
        from experiments.bench.made.arms import healing, longer, make_cut, measure

        make_cut(self.bed)
        whole = measure(self.bed, "whole", self.bed.source)
        cut = measure(self.bed, "cut", self.bed.cut)
        self.done |= {"whole": whole, "cut": cut}
        healed, alone, random = map(self.run, healing(self.bed))
        equal = self.run(longer(self.bed, healed, alone))
        lost = cut.bits - whole.bits
        won = (cut.bits - healed.bits) / lost
        print(f"of what the cut lost, won back: {won:.0%}")
        return [
            Bar("share of the loss not won back", 1 - won, 0.5),
            Bar("bits: healed / CE, equal steps", healed.bits / alone.bits, 1),
            Bar("bits: healed / CE, equal time", healed.bits / equal.bits, 1),
            Bar("bits: healed / from random weights", healed.bits / random.bits, 1),
        ]

    def rounded(self) -> list[Bar]:
        """The whole at a few bits."""
        from experiments.bench.made.arms import measure, rounding
        from teacher.loading.vouched import UNTRANSFORMED

        bed, bits = self.bed, self.bed.bits
        self.done["whole"] = measure(bed, "whole", bed.source)
        plain, trained = map(self.run, rounding(bed))
        runs, name = bed.folder / "runs", f"rounded-{bits}"
        self._corrected(runs / "plain" / "student", name)
        latent = runs / f"qat-{bits}" / "phases" / "1-single" / UNTRANSFORMED
        self._corrected(latent, f"qat-{bits}")
        after = self.done[name]
        lost, still = after.bits - plain.bits, trained.bits - plain.bits
        print(f"{bits} bits: rounding afterwards loses {lost:.4f}, trained {still:.4f}")
        return [Bar(f"{bits} bits: loss trained / rounded after", still / lost, 0.5)]

    def _corrected(self, unrounded: Path, name: str) -> None:
        """A student rounded as it is, and with biases and scales corrected."""
        from experiments.bench.made.arms import CORRECTIONS, measure, round_off

        for end, corrections in CORRECTIONS.items():
            title = name + end
            if title not in self.done:
                out = self.bed.folder / title
                student = round_off(self.bed, unrounded, out, corrections)
                self.done[title] = measure(self.bed, title, student)

    def table(self) -> None:
        """Every arm that is done, as a table for the evidence."""
        print("\n| student | steps | processor s | bits per character |")
        print("|---|---:|---:|---:|")
        for name, outcome in self.done.items():
            seconds = f"{outcome.seconds:,.0f}" if outcome.steps else ""
            steps = str(outcome.steps or "")
            print(f"| {name} | {steps} | {seconds} | {outcome.bits:.3f} |")
        print()


if __name__ == "__main__":
    sys.exit(main())
