"""A selector that remembers: where the student knows less than it lately does."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from student.select import Candidates


class Novel(nn.Module):
    """More weight where the student's entropy is above its mean over the steps before;
    all weigh alike in the first."""

    needs = frozenset({"student_entropy"})

    def __init__(
        self, teachers: Sequence[str], domains: Sequence[str], *, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("known", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("waiting", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("step", torch.tensor(-1))

    def note(self, candidates: Candidates) -> None:
        """Add up a pass; what was added in earlier steps is known from now on."""
        if int(self.step) != candidates.step:
            self.known += self.waiting
            self.waiting.zero_()
            self.step.fill_(candidates.step)
        entropy = self._entropy(candidates)
        sums = [float(entropy.double().sum()), float(len(entropy))]
        self.waiting += torch.tensor(candidates.over_processes(sums)).to(self.waiting)

    def forward(self, candidates: Candidates) -> Tensor:
        entropy = candidates.signals.student_entropy
        total, count = self.known + (self.step < candidates.step) * self.waiting
        if not count:
            return torch.ones_like(entropy)
        above = (entropy - total / count).clamp_min(0).nan_to_num()
        return 1 + self.gain * above.float()

    def _entropy(self, candidates: Candidates) -> Tensor:
        entropy = candidates.signals.student_entropy
        return entropy[candidates.known.any(-1) & entropy.isfinite()]
