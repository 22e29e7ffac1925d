"""How a model chooses what it writes."""

from teacher.writing.ways import WAYS, Beam, Diverse, Greedy, Sample, Way

__all__ = ["WAYS", "Beam", "Diverse", "Greedy", "Sample", "Way"]
