"""Terms of the loss on next-token outputs: settings, teachers and steps over the maths.

The objectives are in :mod:`student.output.terms.objectives`, which reads a
:class:`student.objective.StepContext`; that holds what is named here.
"""

from student.output.terms.config import OutputConfig
from student.output.terms.step_outputs import OutputPlan, Outputs, Taught

__all__ = ["OutputConfig", "OutputPlan", "Outputs", "Taught"]
