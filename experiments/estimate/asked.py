"""How many texts each teacher is asked about, where ``fuse.choice`` lets some rest."""

from __future__ import annotations

from collections.abc import Callable

from experiments.choosing.before_reading import Choosing
from experiments.choosing.weigher import shares_of
from experiments.estimate.trial import Trial
from experiments.run.context import Stage

AT_MOST = 4096
"""Texts that are counted; they lie in no order."""


def asked_shares(
    trial: Trial, stage: Stage, tell: Callable[[str], None] = lambda sentence: None
) -> dict[str, float]:
    """Of the texts of a phase the share that each teacher is asked about.

    Args:
        trial: the config's models and texts.
        stage: the phase, of any arm.
        tell: takes what a user should know of the choice, a sentence at a time.

    Returns:
        By teacher, in [0, 1]; empty where every one reads all.

    Raises:
        InputError: nobody can choose.
    """
    if not stage.teachers:
        return {}
    texts = list(trial.usual[:AT_MOST])
    choosing = Choosing(
        registry=trial.registry,
        samples=texts,
        seed=trial.config.run.seed,
        tied=trial.models.sharded,
        # whatever texts are scored by, the same shares of them are easy
        score=lambda name: {sample.id: float(len(sample.text)) for sample in texts},
        tell=tell,
    )
    choose = choosing(
        stage.phase,
        trial.models.student_sizes.hidden_size,
        trial.models.chosen(stage.teachers),
        shares_of(stage.teachers, trial.config.teachers),
    )
    if choose is None:
        return {}
    asked = choose(texts, range(len(texts))).double().mean(0)
    return dict(zip(choose.teachers, asked.tolist(), strict=True))
