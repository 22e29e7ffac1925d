"""How a model chooses what it writes."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from teacher.writing.ways import WAYS, Beam, Diverse, Greedy, Sample, Way
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["WAYS", "Beam", "Diverse", "Greedy", "Sample", "Way"]
