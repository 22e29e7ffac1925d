"""Working examples of every kind, from which new packages start.

``$ident`` becomes a function's name made from the offered one, ``$Class`` a class',
``$NAME`` a constant's.
"""

from __future__ import annotations

from plugins.hooks.examples import EXAMPLES_OF_MODELS

EXAMPLES: dict[str, tuple[str, str, str]] = {
    "aligner": (
        "$Class",
        "import torch\n\nfrom align import Alignment, CharIoUAligner, TokenBatch\n",
        '''
class $Class:
    """Feed each student token from its one best teacher token."""

    causal = False  # True promises that no future leaks: the contract tries it

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Keep the pair with the greatest character overlap."""
        pairs = CharIoUAligner()(student, teacher)
        best: dict[int, int] = {}
        for pair, row in enumerate(pairs.rows.tolist()):
            if row not in best or pairs.weights[pair] > pairs.weights[best[row]]:
                best[row] = pair
        keep = torch.tensor(list(best.values()), dtype=torch.int64)
        ones = torch.ones(len(keep))
        return Alignment(pairs.rows[keep], pairs.cols[keep], ones, pairs.shape)
''',
    ),
    "layer_map": (
        "$ident",
        "from align import LayerMap\n",
        '''
def $ident(num_teacher_layers: int, num_student_layers: int) -> LayerMap:
    """Feed every student layer from the upper half of the teacher."""
    low, top = num_teacher_layers // 2, num_teacher_layers - 1
    step = (top - low) / max(1, num_student_layers - 1)
    chosen = [round(top - step * i) for i in reversed(range(num_student_layers))]
    return LayerMap(tuple(((layer, 1.0),) for layer in chosen))
''',
    ),
    "adapter": (
        "$ident",
        "import torch\nfrom torch import Tensor\n\n"
        "from align import CalibrationStats\n",
        '''
def $ident(stats: CalibrationStats) -> tuple[Tensor, Tensor]:
    """Predict the student's channels, each from its best correlated one."""
    scale = stats.std_x[:, :, None] * stats.std_y[:, None]
    best = (stats.cov_xy / scale).abs().argmax(1, keepdim=True)  # (L, 1, C_y)
    variance = stats.std_x.square()[:, :, None].expand_as(stats.cov_xy)
    slope = stats.cov_xy.gather(1, best) / variance.gather(1, best)
    weight = torch.zeros_like(stats.cov_xy).scatter(1, best, slope)
    bias = stats.mean_y - (stats.mean_x[:, None] @ weight)[:, 0]
    return weight, bias
''',
    ),
    "rope_scaler": (
        "$ident",
        "",
        '''
def $ident(base: float, dim: int, scale: float) -> float:
    """Grow the base in proportion to the context."""
    return base * scale
''',
    ),
    "schedule": (
        "$ident",
        "from torch import Tensor\n\nfrom align.schedules import Moment\n",
        '''
def $ident(moment: Moment) -> float | Tensor:
    """Stay at the start for half of the phase, then at the end."""
    return moment.start if moment.progress < 0.5 else moment.end
''',
    ),
    "distance": (
        "$Class",
        "from dataclasses import dataclass\nfrom typing import ClassVar\n\n"
        "from torch import Tensor\n",
        '''
@dataclass(kw_only=True)
class $Class:
    """Absolute difference, as far as it is larger than a slack."""

    per_token: ClassVar[bool] = True  # (L, B, T); False: (L,), of the whole pass
    equal_widths: ClassVar[bool] = True
    slack: float = 0.0
    """An option: how far apart features may be for nothing."""

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """(L, B, T, C), (L, B, T, C), (L, B, T) -> (L, B, T)."""
        return ((pred - target).abs() - self.slack).clamp_min(0).mean(-1)
''',
    ),
    "projector": (
        "$Class",
        "import torch\nfrom torch import Tensor, nn\n\n"
        "from student.bridges.base import PairStats\n",
        '''
class $Class(nn.Module):
    """Scale each channel, and repeat or leave out channels to fit."""

    channels: Tensor

    def __init__(self, student: int, teacher: int, layers: int) -> None:
        """Channel i of the teacher's is fed by channel i modulo the student's."""
        super().__init__()
        self.register_buffer("channels", torch.arange(teacher) % student)
        self.scale = nn.Parameter(torch.ones(layers, 1, 1, teacher))

    def forward(self, x: Tensor) -> Tensor:
        """(L, B, T, C_s) -> (L, B, T, C_t)."""
        return x[..., self.channels].to(self.scale.dtype) * self.scale

    def fit(self, stats: PairStats) -> None:
        """Take the best scale of each channel."""
        pairs, here = stats.to_teacher, torch.arange(len(self.channels))
        variance = pairs.std_x.square()[:, self.channels]
        slope = pairs.cov_xy[:, self.channels, here] / variance
        self.scale.data.copy_(slope[:, None, None])
''',
    ),
    "router": (
        "$Class",
        "import torch\nfrom torch import Tensor, nn\n",
        '''
class $Class(nn.Module):
    """The mean of a Dirichlet distribution whose concentrations are learned."""

    def __init__(self, hidden_dim: int, num_teachers: int) -> None:
        """Build the map from a query to concentrations."""
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.score = nn.Linear(hidden_dim, num_teachers)

    def forward(self, query: Tensor) -> Tensor:
        """Map (..., C) to (..., M), >= 0 and summing to 1 over M."""
        scores = self.score(self.norm(query.to(self.score.weight.dtype)))
        concentration = 1 + nn.functional.softplus(scores.float())
        return concentration / concentration.sum(-1, keepdim=True)
''',
    ),
    "space": (
        "$Class",
        "import torch\nfrom torch import Tensor\n\n"
        "from align import KV, TeacherView\n"
        "from student.bridges import AdapterBridge\n"
        "from student.objective import Comparison\n",
        '''
class $Class(AdapterBridge):
    """The student's own dimensions, in which every teacher is met by itself.

    Adapters, their calibration and the injection are the parent's.
    """

    def compare(
        self, kv: KV, views: list[TeacherView], weights: Tensor
    ) -> list[Comparison]:
        """One comparison per teacher; weights multiply losses, not tensors."""
        with torch.no_grad():  # targets stand still
            targets = [self.carry(m, v, v.alignment) for m, v in enumerate(views)]
        k, v = self.student_k(kv.flat()[0]), self.student_v(kv.flat()[1])
        return [
            Comparison(
                name=view.name,
                pred_k=k,
                pred_v=v,
                target_k=self.student_k(target_k),
                target_v=self.student_v(target_v),
                weight=weights[..., m],
            )
            for m, (view, (target_k, target_v)) in enumerate(
                zip(views, targets, strict=True)
            )
        ]
''',
    ),
    "objective": (
        "$Class",
        "from dataclasses import dataclass\n\nfrom torch import Tensor\n\n"
        "from student.objective import StepContext\n"
        "from student.places import Places\n",
        '''
@dataclass(kw_only=True)
class $Class:
    """Absolute instead of squared distance of keys: outliers pull less."""

    slack: float = 0.0
    """An option: how far apart keys may be for nothing, in standard deviations."""
    needs = frozenset[str]()  # what must be captured; no annotation, so no option

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.slack < 0:
            raise ValueError(f"slack must be >= 0, got {self.slack}")

    def count(self, places: Places) -> list[float]:
        """What the tokens of one forward pass weigh: they share the step's mean."""
        return [float(places.compared.sum())]

    def __call__(self, ctx: StepContext) -> Tensor:
        """Average over layers, channels and, by weight, tokens."""
        total, weight = ctx.zero(), ctx.zero()
        for pair in ctx.comparisons:
            apart = (pair.pred_k.float() - pair.target_k.float()).abs()
            apart = (apart - self.slack).clamp_min(0).mean(3)
            total = total + (apart * pair.weight).sum() / len(apart)
            weight = weight + pair.weight.expand_as(apart).sum() / len(apart)
        return total / ctx.total(0, weight)
''',
    ),
    "balancer": (
        "$Class",
        "import torch\n\nfrom student.balance import Balanced, Standing\n",
        '''
class $Class:
    """Terms whose gradients are long pull less: by the root of their length."""

    needs = frozenset({"gradients"})  # what must be measured for it; none: leave it out

    def __init__(self, names: tuple[str, ...], *, power: float = 0.5) -> None:
        """Take the terms' names, and options by name."""
        if not 0 <= power <= 1:
            raise ValueError(f"power must be in [0, 1], got {power}")
        self.power = power

    def __call__(self, standing: Standing) -> Balanced:
        """Weigh the terms of one pass; what has no gradient keeps its weight."""
        lengths = torch.where(standing.active, standing.norms, 1.0)
        return Balanced(weights=standing.weights / lengths**self.power)
''',
    ),
    "selector": (
        "$Class",
        "import torch\n\nfrom student.select import Candidates\n",
        '''
class $Class:
    """Tokens that the student expected already count less."""

    needs = frozenset({"student_log_prob"})  # of fuse.signals.SIGNALS

    def __init__(self, teachers, domains, *, power: float = 1.0) -> None:
        """Take the teachers' names and the texts' domains, and options by name."""
        if power < 0:
            raise ValueError(f"power must be >= 0, got {power}")
        self.power = power

    def __call__(self, candidates: Candidates) -> torch.Tensor:
        """(B, T) in [0, 1]; 1 where nothing is known."""
        surprise = 1 - candidates.signals.student_log_prob.exp()
        return torch.nan_to_num(surprise, nan=1.0).clamp(0, 1) ** self.power
''',
    ),
    **EXAMPLES_OF_MODELS,
}
"""Kind -> what is offered, its imports, its code."""
