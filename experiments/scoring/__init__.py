"""Read the texts of a phase once, and keep what is measured of each."""

from experiments.scoring.kept import ScoreKeeper
from experiments.scoring.scorer import Scorer

__all__ = ["ScoreKeeper", "Scorer"]
