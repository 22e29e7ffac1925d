"""One way to train the student of the quality testbed."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

TEACHERS = ("neox-prose", "qwen-code", "gpt2-mixed")
SPECIALISTS = TEACHERS[:2]
"""A teacher that has read prose alone, and one that has read code alone."""
ENCODER = "bert-mixed"
TWIN = "llama-twin"
"""Has the student's tokenizer."""
ADAPTED = "-adapted"
"""End of a teacher's name that is given the student's vocabulary before any arm."""
FIXED_PHASES = ("dual", "multi_basic")
CE_ONLY = "ce"
"""The arm that all others are compared with."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train the student."""

    name: str
    asks: str
    """The question that it answers."""
    _: KW_ONLY
    settings: tuple[str, ...] = ()
    """Overrides of ``experiments/configs/quality.yaml``, as on the command line."""
    teachers: tuple[str, ...] = TEACHERS
    """Empty: cross-entropy alone."""
    phases: tuple[str, ...] = ("multi_basic",)
    stretch: int = 1
    """How many times the steps of the others."""
    pupils: bool = False
    """Whether its teachers are the students of the arms of their names."""
    rest: bool = False
    """Whether those pupils teach what the arm's own earlier phases leave of them."""
    apart: int = 0
    """Added to the seed of its run, so that it reads and begins otherwise; what it is
    measured on stays."""
    reads: tuple[str, ...] = ()
    """Names of texts that it reads beside the base's, ``unlabelled`` or ``written``."""
    spread: float = 1.0
    """Times the standard deviation that its student's first weights are drawn with."""
    outputs_stored: bool = False
    """Whether the bed's stores hold what teachers expect next, too."""

    @property
    def stored(self) -> bool:
        """Whether its teachers can be read from a store, which holds neither hidden
        states nor attention, nor next-token outputs, which the bench's own terms read,
        where :attr:`outputs_stored` does not say so."""
        unheld = ["plugins=", "gamma_kl", "site: hidden", "site: attention"]
        if not self.outputs_stored:
            unheld.append("output.")
        asked = any(
            name in setting and not setting.endswith("=0")
            for name in unheld
            for setting in self.settings
        )
        return bool(self.teachers) and not asked and not self.pupils

    @property
    def alone(self) -> bool:
        """Whether it is the student of all arms, and neither a teacher, nor what one
        wrote, nor its own past teaches it."""
        others = ("teachers.", "student.model")
        given = any(name in setting for name in others for setting in self.settings)
        return not self.teachers and not given and "written" not in self.reads

    @property
    def plain(self) -> bool:
        """Whether it is the baseline itself, for however many steps."""
        changed = self.settings or self.reads or self.spread != 1
        return not (self.teachers or changed)

    @property
    def adapted(self) -> tuple[str, ...]:
        """Its teachers that are given the student's vocabulary, as they are called."""
        return tuple(name for name in self.teachers if name.endswith(ADAPTED))

    @property
    def routed(self) -> bool:
        """Whether its last phase weighs several teachers by what they are asked."""
        methods = [each for each in self.settings if "fusion_method=" in each]
        fixed = bool(methods) and methods[-1].endswith("=fixed")
        moves = self.phases[-1] not in FIXED_PHASES and not fixed
        return len(self.teachers) > 1 and moves

    def steps(self, size: int) -> int:
        """Optimiser steps of each of its phases, which share those of its size."""
        return max(1, size * self.stretch // len(self.phases))
