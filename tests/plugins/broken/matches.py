"""Distances and projectors that break a promise."""

import torch
from torch import nn

from student.match.distance import Mse
from student.match.projector import Linear, Pca
from student.match.whole import Cka


class Good:
    per_token = True
    equal_widths = True

    def __call__(self, pred, target, weight):
        return (pred - target).square().mean(-1)


def instead(change, **facts):
    """A distance that changes what it is given, or answers."""

    class Changed(Good):
        def __call__(self, pred, target, weight):
            return change(pred, target, weight)

    for name, value in facts.items():
        setattr(Changed, name, value)
    return Changed


class Late(Good):
    def __init__(self):
        self.calls = 0

    def __call__(self, pred, target, weight):
        self.calls += 1
        apart = super().__call__(pred, target, weight)
        return apart * (torch.nan if self.calls > 30 else 1)


class Scales(Good):
    """By the largest distance so far."""

    def __init__(self):
        self.largest = 0.0

    def __call__(self, pred, target, weight):
        apart = super().__call__(pred, target, weight)
        self.largest = max(self.largest, float(apart.detach().max()))
        return apart / self.largest


def in_place(pred, target, weight):
    target.mul_(2)
    return (pred - target).square().mean(-1)


DISTANCES = {
    "one_number": instead(lambda p, y, w: (p - y).square().mean()),
    "a_layer_for_tokens": instead(lambda p, y, w: (p - y).square().mean((1, 2, 3))),
    "says_nothing": instead(Good(), per_token=None),
    "wider_than_it_says": instead(Good(), equal_widths=False),
    "nan": instead(lambda p, y, w: (p - y).square().mean(-1) * torch.nan),
    "nan_without_weight": instead(
        lambda p, y, w: ((p - y).square().mean(-1) * w).sum((1, 2)) / w.sum((1, 2)),
        per_token=False,
    ),
    "root_at_0": instead(lambda p, y, w: (p - y).square().mean(-1).sqrt()),
    "detached": instead(lambda p, y, w: (p.detach() - y).square().mean(-1)),
    "prefers_strangers": instead(lambda p, y, w: -(p - y).square().mean(-1)),
    "hears_padding": instead(
        lambda p, y, w: (p - p.mean((1, 2), keepdim=True) - y).square().mean(-1)
    ),
    "writes_to_target": instead(in_place),
    "remembers": Scales,
    "late": Late,
    "raises": instead(lambda p, y, w: p[99]),
    "any_option": lambda beta=1.0, *, slope=1.0, **more: Mse(),
    "the_pass_by_token": instead(Cka(), equal_widths=False),
}


class Shrinks(Linear):
    """Both sides by one learned scale, which ends at 0."""

    def __init__(self, student, teacher, layers):
        super().__init__(student, teacher, layers)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(x) * self.scale

    def target(self, y):
        return y * self.scale


class Idle(Linear):
    def __init__(self, student, teacher, layers):
        super().__init__(student, teacher, layers)
        self.idle = nn.Parameter(torch.ones(3))


class Centres(Linear):
    def forward(self, x):
        return super().forward(x - x.mean((1, 2), keepdim=True))


class Detached(Linear):
    def forward(self, x):
        return super().forward(x.detach())


class Forgets(Pca):
    """What it found at fit lies in no buffer."""

    def __init__(self, student, teacher, layers):
        super().__init__(student, teacher, layers, rank=4)
        self.found = self.directions
        del self.directions
        self.directions = self.found


class Wrong(Linear):
    """A fit that is worse than nothing."""

    def fit(self, stats):
        super().fit(stats)
        with torch.no_grad():
            self.map.weight.neg_()


class NarrowFit(Linear):
    def fit(self, stats):
        super().fit(stats)
        with torch.no_grad():
            self.map.weight.div_(stats.to_teacher.cov_x.diagonal(dim1=1, dim2=2).min())


class TooWide(Linear):
    def __init__(self, student, teacher, layers):
        super().__init__(student, teacher + 1, layers)


PROJECTORS = {
    "shrinks_the_target": Shrinks,
    "idle_parameter": Idle,
    "depends_on_the_batch": Centres,
    "detached": Detached,
    "forgets": Forgets,
    "worse_than_nothing": Wrong,
    "infinite_fit": NarrowFit,
    "too_wide": TooWide,
    "no_module": lambda student, teacher, layers: lambda x: x,
    "keeps_the_width": lambda student, teacher, layers: nn.Identity(),
    "raises": lambda student, teacher, layers: [][0],
}


class LateMap(Linear):
    """Wrong at widths that no contract tries."""

    def forward(self, x):
        projected = super().forward(x)
        return projected if x.shape[-1] in (20, 24) else projected[..., 1:]


LATE = {
    "distance": {
        "nan_late": instead(
            lambda p, y, w: Cka()(p, y, w) * (1 if p.shape[-1] == 6 else torch.nan),
            per_token=False,
            equal_widths=False,
        )
    },
    "projector": {"narrow_late": LateMap},
}
"""By kind what only shows in a run, at the sizes of its models."""
