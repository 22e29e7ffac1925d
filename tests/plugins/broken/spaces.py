"""Spaces that break a promise, each by name."""

from dataclasses import replace

import torch
from torch import nn

from align.kv import KV
from fuse.fuse_kv import fuse_with_weights
from student.bridges import AdapterBridge, Bridge, LatentBridge, ProjectorBridge
from student.objective import Comparison

GOOD = AdapterBridge


def spoilt(function):
    """A good space whose comparisons are spoilt."""

    class Spoilt(AdapterBridge):
        def compare(self, kv, views, weights):
            met = super().compare(kv, views, weights)
            return function(self, met, kv, views, weights)

    Spoilt.__name__ = function.__name__
    return Spoilt


def injecting(function):
    """A good space that injects something else."""

    class Spoilt(AdapterBridge):
        def fuse_for_injection(self, views, weights):
            fused = super().fuse_for_injection(views, weights)
            return function(self, fused, views, weights)

    Spoilt.__name__ = function.__name__
    return Spoilt


@spoilt
def nothing(self, met, kv, views, weights):
    return []


@spoilt
def tuples(self, met, kv, views, weights):
    return [(c.pred_k, c.target_k) for c in met]


@spoilt
def of_other_widths(self, met, kv, views, weights):
    return [replace(c, target_k=c.target_k[..., :-1]) for c in met]


@spoilt
def without_layers(self, met, kv, views, weights):
    return [replace(c, pred_k=c.pred_k.mean(0), target_k=c.target_k[0]) for c in met]


@spoilt
def live_target(self, met, kv, views, weights):
    with_gradient = met[0].target_k * self.gates[:, None, None, None]
    return [replace(met[0], target_k=with_gradient)]


@spoilt
def follows_the_student(self, met, kv, views, weights):
    halfway = (met[0].target_v + met[0].pred_v.detach()) / 2
    return [replace(met[0], target_v=halfway)]


@spoilt
def detached(self, met, kv, views, weights):
    return [replace(c, pred_k=c.pred_k.detach()) for c in met]


@spoilt
def keys_alone(self, met, kv, views, weights):
    anywhere = met[0].pred_k.new_zeros(met[0].target_v.shape, requires_grad=True)
    return [replace(met[0], pred_v=anywhere)]


@spoilt
def counts_padding(self, met, kv, views, weights):
    return [replace(c, weight=torch.ones_like(c.weight)) for c in met]


@spoilt
def negative(self, met, kv, views, weights):
    return [replace(c, weight=-c.weight) for c in met]


@spoilt
def weighs_by_text(self, met, kv, views, weights):
    return [replace(c, weight=c.weight.sum(-1)) for c in met]


@spoilt
def live_weight(self, met, kv, views, weights):
    return [replace(c, weight=c.weight * self.gates.mean()) for c in met]


@spoilt
def not_a_number(self, met, kv, views, weights):
    covered = met[0].weight / met[0].weight
    return [replace(met[0], weight=met[0].weight * covered)]


@spoilt
def equal_shares(self, met, kv, views, weights):
    """Every teacher has its say, whatever its weight."""
    every = [self.carry(m, view, view.alignment) for m, view in enumerate(views)]
    target = torch.stack([self.student_k(k) for k, _ in every]).mean(0).detach()
    return [replace(met[0], target_k=target)]


@spoilt
def by_the_batch(self, met, kv, views, weights):
    centre = met[0].target_k.mean((1, 2), keepdim=True)
    return [replace(met[0], target_k=met[0].target_k - centre)]


@spoilt
def writes_to_the_teacher(self, met, kv, views, weights):
    views[0].kv.k.mul_(2)
    return met


@spoilt
def writes_in_secret(self, met, kv, views, weights):
    weights.data.zero_()
    return met


@spoilt
def raises(self, met, kv, views, weights):
    raise IndexError("no such teacher")


@spoilt
def seeds(self, met, kv, views, weights):
    torch.manual_seed(1)
    return met


@spoilt
def by_chance(self, met, kv, views, weights):
    noise = torch.randn(met[0].target_k.shape, generator=self.chance)
    return [replace(met[0], target_k=met[0].target_k + noise)]


by_chance.chance = torch.Generator()


@spoilt
def overflows_in_half(self, met, kv, views, weights):
    narrow = met[0].pred_k.half() * 1000
    return [replace(met[0], pred_k=narrow.float())]


@injecting
def the_future(self, fused, views, weights):
    seen = [replace(v, causal=v.causal and v.alignment) for v in views]
    return AdapterBridge.fuse_for_injection(self, seen, weights)


@injecting
def the_next_token(self, fused, views, weights):
    return fused and replace(fused, k=fused.k.roll(-1, 3), v=fused.v.roll(-1, 3))


@injecting
def bidirectional(self, fused, views, weights):
    seen = [replace(view, causal=view.alignment) for view in views]
    return AdapterBridge.fuse_for_injection(self, seen, weights)


@injecting
def everywhere(self, fused, views, weights):
    return fused and replace(fused, mask=torch.ones_like(fused.mask))


@injecting
def joined_heads(self, fused, views, weights):
    return fused and KV.from_flat(*fused.flat(), fused.mask, 1)


@injecting
def a_pair(self, fused, views, weights):
    return fused and (fused.k, fused.v)


@injecting
def never(self, fused, views, weights):
    return None


@injecting
def without_pull(self, fused, views, weights):
    return fused and fused.detach()


@injecting
def past_the_router(self, fused, views, weights):
    return AdapterBridge.fuse_for_injection(self, views, weights.detach())


class Everybody(AdapterBridge):
    """Fuses all that it is given, those as well who have read the future."""

    def fuse_for_injection(self, views, weights):
        fused = super().fuse_for_injection(views, weights)
        if fused is None:
            return None
        every = [
            KV.from_flat(k, v, view.alignment.covered, self.student.heads)
            for view, (k, v) in zip(views, self.in_student_space(views), strict=True)
        ]
        return replace(fuse_with_weights(every, weights), mask=fused.mask)


class TrainableTarget(ProjectorBridge):
    """One map for both sides, which learns to see no difference."""

    def __init__(self, student, teachers, method):
        super().__init__(student, teachers, method)
        self.shared = nn.Parameter(torch.ones(student.k_width))

    def compare(self, kv, views, weights):
        with torch.no_grad():
            adapted = [self.carry(m, v, v.alignment) for m, v in enumerate(views)]
            k, v = (
                fuse_with_weights([pair[i] for pair in adapted], weights)
                for i in (0, 1)
            )
        own_k, own_v = kv.flat()
        return [
            Comparison(
                name="fused",
                pred_k=self.student_k(own_k) * self.shared,
                pred_v=self.student_v(own_v),
                target_k=(self.student_k(k) * self.shared).detach(),
                target_v=self.student_v(v),
                weight=weights.sum(-1),
            )
        ]


class RunningScale(AdapterBridge):
    """Standardises by what it met lately."""

    def __init__(self, student, teachers, method):
        super().__init__(student, teachers, method)
        self.register_buffer("scale", torch.ones(()))

    def compare(self, kv, views, weights):
        (met,) = super().compare(kv, views, weights)
        if self.training:
            self.scale.mul_(0.9).add_(0.1 * kv.k.detach().std())
        return [replace(met, target_k=met.target_k / self.scale)]


class Forgets(AdapterBridge):
    """Keeps what calibration finds where no checkpoint looks."""

    def calibrate(self, m, k, v):
        self.secret = k.to_student.mean_y.float()
        return super().calibrate(m, k, v)

    def compare(self, kv, views, weights):
        (met,) = super().compare(kv, views, weights)
        return [replace(met, target_k=met.target_k + self.secret[:, None, None])]


class Idle(AdapterBridge):
    """Has parameters that nothing reaches."""

    def __init__(self, student, teachers, method):
        super().__init__(student, teachers, method)
        self.idle = nn.Linear(student.k_width, student.k_width)


class PullsTheStudent(AdapterBridge):
    learns_from_student = True

    def auxiliary(self, kv, views, share=None):
        part = 1.0 if share is None else share.part
        return {"small": part * kv.k.square().mean() + 0 * self.gates.sum()}


class ReadsUnsaid(AdapterBridge):
    """Its own loss reads the student, which is not captured for it."""

    def auxiliary(self, kv, views, share=None):
        part = 1.0 if share is None else share.part
        return {"level": part * kv.k.detach().mean() * self.gates.mean()}


class Unshared(LatentBridge):
    """Its own losses are means over a pass, as many as there are."""

    def auxiliary(self, kv, views, share=None):
        return super().auxiliary(kv, views)


def unshared(student, teachers, method):
    made = LatentBridge.of_sizes(student, teachers, method)
    made.__class__ = Unshared
    return made


class Vectors(AdapterBridge):
    def auxiliary(self, kv, views, share=None):
        return {"gates": self.gates}


class NotFinite(AdapterBridge):
    """Divides by the tokens that are covered, though there may be none."""

    def auxiliary(self, kv, views, share=None):
        part = 1.0 if share is None else share.part
        covered = views[0].alignment.covered.sum()
        return {"covered": part * self.gates.sum() / covered}


class Silent(AdapterBridge):
    """Reports one number for all layers."""

    def calibrate(self, m, k, v):
        super().calibrate(m, k, v)
        return {"fit": 0.5}


class WritesStatistics(AdapterBridge):
    def calibrate(self, m, k, v):
        k.to_student._sum_x.zero_()
        return super().calibrate(m, k, v)


class Pairs(AdapterBridge):
    """Needs two teachers."""

    def compare(self, kv, views, weights):
        views[1]
        return super().compare(kv, views, weights)


class Whole(nn.Module):
    """No bridge at all."""

    def __init__(self, student, teachers, method):
        super().__init__()


class OtherSizes(AdapterBridge):
    """Hands on the teachers in another order."""

    def __init__(self, student, teachers, method):
        super().__init__(student, tuple(reversed(teachers)), method)


ONLY: dict = {}


def always_the_same(student, teachers, method):
    names = tuple(teacher.name for teacher in teachers)
    return ONLY.setdefault(names, AdapterBridge(student, teachers, method))


class NanAfter5(AdapterBridge):
    calls = 0

    def fuse_for_injection(self, views, weights):
        self.calls += 1
        fused = super().fuse_for_injection(views, weights)
        return fused if self.calls < 10 else replace(fused, k=fused.k * torch.nan)


BROKEN = {
    made.__name__: made
    for made in (
        nothing,
        tuples,
        of_other_widths,
        without_layers,
        live_target,
        follows_the_student,
        detached,
        keys_alone,
        counts_padding,
        negative,
        weighs_by_text,
        live_weight,
        not_a_number,
        equal_shares,
        by_the_batch,
        writes_to_the_teacher,
        writes_in_secret,
        raises,
        seeds,
        by_chance,
        overflows_in_half,
        the_future,
        the_next_token,
        bidirectional,
        everywhere,
        joined_heads,
        a_pair,
        never,
        without_pull,
        past_the_router,
    )
} | {
    "everybody": Everybody,
    "trainable_target": TrainableTarget,
    "running_scale": RunningScale,
    "forgets": Forgets,
    "idle": Idle,
    "pulls_the_student": PullsTheStudent,
    "reads_unsaid": ReadsUnsaid,
    "unshared": unshared,
    "vectors": Vectors,
    "not_finite": NotFinite,
    "silent": Silent,
    "writes_statistics": WritesStatistics,
    "pairs_only": Pairs,
    "no_bridge": Whole,
    "other_sizes": OtherSizes,
    "always_the_same": always_the_same,
    "nan_after_5_calls": NanAfter5,
}
"""What a contract has to find."""

FAULTS = {
    "takes sizes": "no_bridge",
    "is calibrated": "silent",
    "compares like": "live_target",
    "meets one": "pairs_only",
    "pulls the student": "detached",
    "no target learns": "trainable_target",
    "no target follows": "follows_the_student",
    "a teacher without weight": "equal_shares",
    "what no teacher covers": "not_finite",
    "injects keys": "joined_heads",
    "injects no bidirectional": "everybody",
    "injects no future": "the_future",
    "whatever learns": "idle",
    "its own losses leave": "pulls_the_student",
    "its own losses are a share": "unshared",
    "meets each text": "by_the_batch",
    "no batch changes": "running_scale",
    "is restored": "forgets",
    "leaves its input": "writes_to_the_teacher",
    "is finite": "overflows_in_half",
    "keeps all this": "nan_after_5_calls",
}
"""How every promise begins, and whose fault it finds."""


class Late(AdapterBridge):
    """Good at a contract's widths, spoilt at a model's."""

    small = (8, 12)

    @property
    def late(self):
        return (self.student.k_width, self.student.v_width) != self.small


def late(method, function):
    """A space one of whose answers turns bad."""

    def answer(self, *given):
        found = getattr(AdapterBridge, method)(self, *given)
        return function(found, *given) if self.late else found

    return type("Turns", (Late,), {method: answer})


def _leak(fused, views, weights):
    return replace(fused, k=fused.k.roll(-1, 3), v=fused.v.roll(-1, 3))


def _nan(fused, views, weights):
    return replace(fused, k=fused.k * torch.nan)


def _raise(*given):
    raise IndexError("no such teacher")


LATE = {
    "live_target_late": late(
        "compare",
        lambda met, kv, views, weights: [
            replace(c, target_k=c.pred_k + c.target_k) for c in met
        ],
    ),
    "padding_late": late(
        "compare",
        lambda met, kv, views, weights: [
            replace(c, weight=torch.ones_like(c.weight)) for c in met
        ],
    ),
    "future_late": late("fuse_for_injection", _leak),
    "nan_injected_late": late("fuse_for_injection", _nan),
    "raises_late": late("compare", _raise),
    "calibration_raises_late": late("calibrate", _raise),
}
"""What only shows in a run."""

assert issubclass(GOOD, Bridge)
