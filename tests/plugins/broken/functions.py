"""Layer maps, adapters, RoPE scalers, temperatures and phases that break a promise."""

import torch

from align.calibration import METHODS
from align.layer_map import LayerMap, ratio, uniform
from align.rope_scale import scaled_base


def one(layer, student):
    return LayerMap((((layer, 1.0),),) * student)


class Counting:
    """A function that turns bad after some calls."""

    def __init__(self, calls, good, bad):
        self.calls, self.good, self.bad, self.done = calls, good, bad, 0

    def __call__(self, *words):
        self.done += 1
        return (self.bad if self.done > self.calls else self.good)(*words)


def writes_to_statistics(stats):
    stats._xy.zero_()
    return METHODS["ridge"](stats)


def broken_adapter(change):
    def made(stats):
        return change(*METHODS["ridge"](stats))

    return made


def centres_the_sample(teacher, student, sample):
    for features in sample._teacher:
        features -= features.mean(1, keepdim=True)
    return ratio(teacher, student)


centres_the_sample.needs_sample = True


class Remembers:
    """Answers by the sizes it has seen, or by the longest text."""

    def __init__(self):
        self.maps, self.longest = {}, 1.0

    def adapter(self, stats):
        size = (stats.num_layers, stats.dim_x, stats.dim_y)
        return self.maps.setdefault(size, METHODS["ridge"](stats))

    def base(self, base, dim, scale):
        if scale == 1:
            return base
        self.longest = max(self.longest, scale)
        return base * self.longest


LAYER_MAPS = {
    "too_short": lambda t, s: one(0, max(1, s - 1)),
    "beyond_the_top": lambda t, s: one(t, s),
    "a_list": lambda t, s: list(ratio(t, s)),
    "sums_to_2": lambda t, s: LayerMap((((0, 2.0),),) * s),
    "nan_weight": lambda t, s: LayerMap((((0, float("nan")),),) * s),
    "negative_layer": lambda t, s: one(-1, s),
    "raises": lambda t, s: [][0],
    "centres_the_sample": centres_the_sample,
    "another_each_time": Counting(0, ratio, lambda t, s, turn=[0]: flips(turn, t, s)),
    "late": Counting(100, ratio, lambda t, s: one(t, s)),
}


def flips(turn, t, s):
    turn[0] += 1
    return (ratio if turn[0] % 2 else uniform)(t, s)


ADAPTERS = {
    "wrong_shape": broken_adapter(lambda w, b: (w.transpose(1, 2), b)),
    "nan": broken_adapter(lambda w, b: (w * torch.nan, b)),
    "zeros": broken_adapter(lambda w, b: (w * 0, b)),
    "weight_alone": broken_adapter(lambda w, b: w),
    "a_list": broken_adapter(lambda w, b: [w.tolist(), b.tolist()]),
    "integers": broken_adapter(lambda w, b: (w.long(), b.long())),
    "writes_to_statistics": writes_to_statistics,
    "raises": broken_adapter(lambda w, b: w[99]),
    "stale_by_width": Remembers().adapter,
    "late": Counting(30, METHODS["ridge"], lambda stats: (torch.zeros(1),) * 2),
}

ROPE_SCALERS = {
    "nan": lambda base, dim, scale: float("nan"),
    "negative": lambda base, dim, scale: -base,
    "text": lambda base, dim, scale: "hot",
    "tensor": lambda base, dim, scale: torch.tensor(base),
    "plus_1": lambda base, dim, scale: base + 1,
    "falls": lambda base, dim, scale: base / scale,
    "none": lambda base, dim, scale: None,
    "raises": lambda base, dim, scale: 1 / 0,
    "the_longest_so_far": Remembers().base,
    "late": Counting(100, lambda b, d, s: scaled_base(b, d, s, "ntk"), lambda *_: -1.0),
}

TEMPERATURES = {
    "nan": lambda moment: float("nan"),
    "minus_1": lambda moment: -1.0,
    "zero": lambda moment: 0,
    "hot": lambda moment: "hot",
    "yes": lambda moment: True,
    "none": lambda moment: None,
    "matrix": lambda moment: torch.ones(3, 7),
    "one_too_many": lambda moment: torch.ones(len(moment.teacher_entropy()) + 1),
    "infinite": lambda moment: float("inf"),
    "complex": lambda moment: torch.tensor(1j),
    "by_chance": lambda moment: 1.0 + torch.rand(()),
    "raises": lambda moment: moment.entropy,
    "late": Counting(100, lambda moment: 1.0, lambda moment: -1.0),
}

PHASES = {
    "unknown_section": {"optimizer": {}},
    "unknown_setting": {"fuse": {"temprature": 1}},
    "out_of_range": {"loss": {"lambda_k": -1}},
    "no_mapping": {"train": 3},
    "a_tensor": {"fuse": {"temperature": torch.tensor(0.5)}},
}

LATE = {
    "layer_map": {
        "beyond_the_top_late": lambda t, s: one(t if (t, s) == SIZES else 0, s),
        "raises_late": lambda t, s: 1 / 0 if (t, s) == SIZES else ratio(t, s),
    },
    "adapter": {
        "nan_late": lambda stats: at_real_width(stats, lambda w, b: (w * torch.nan, b)),
        "wrong_shape_late": lambda stats: at_real_width(
            stats, lambda w, b: (w, b[:, 1:])
        ),
    },
    "schedule": {
        "minus_1_late": lambda moment: 1.0 if moment.vocabulary == 151_936 else -1.0,
        "hot_late": lambda moment: 1.0 if moment.vocabulary == 151_936 else "hot",
    },
}
"""By kind what only shows in a run, at the sizes of its models."""

SIZES = (2, 2)
"""Layers of the tiny teachers and of the tiny student."""


def at_real_width(stats, change):
    found = METHODS["ridge"](stats)
    return found if stats.dim_x in (8, 12) else change(*found)
