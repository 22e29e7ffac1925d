"""Working examples of every kind, from which new packages start.

``$ident`` becomes a function's name made from the offered one, ``$Class`` a class',
``$NAME`` a constant's.
"""

from __future__ import annotations

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
    "teacher_source": (
        "$Class",
        "import torch\n\nfrom align.errors import InputError\n"
        "from align.views import Teacher\n"
        "from teacher.sources import Opening, TeacherSource\n",
        '''
class $Class(TeacherSource):
    """One model with the mean weights of several: ``$name:folder-a,folder-b``."""

    example = "folder-a,folder-b"

    def __init__(self, rest: str, *, power: float = 1.0) -> None:
        """Take the folders, and options by name; files are looked at later."""
        super().__init__(rest)
        self.folders = [folder.strip() for folder in rest.split(",")]
        if not all(self.folders):
            raise InputError(f"{rest!r} names no models; give folders with ',' between")
        self.power = power
        """An option: how fast later folders weigh more; 0 weighs all alike."""

    @property
    def like(self) -> str:
        """The model whose config.json and tokenizer it has."""
        return self.folders[0]

    def fingerprint(self) -> dict[str, str]:
        """What tells it from another of that name, beside its options."""
        return {"folders": " ".join(self.folders)}

    @torch.no_grad()
    def open(self, opening: Opening) -> Teacher:
        """Load all, and keep the first with the mean of their weights."""
        mean = opening.load(self.folders[0])
        total = 1.0
        for place, folder in enumerate(self.folders[1:], 2):
            total += place**self.power
            for kept, other in zip(
                mean.loaded.model.parameters(),
                opening.load(folder).loaded.model.parameters(),
                strict=True,
            ):
                kept.lerp_(other, place**self.power / total)
        return mean
''',
    ),
    "student_maker": (
        "$Class",
        "from teacher.making import Made, with_layers\n",
        '''
class $Class:
    """The lowest and the highest layers, without the middle."""

    needs_sample = False

    def __init__(self, *, ends: int = 1) -> None:
        """Options are keyword-only, each with a default and a type."""
        self.ends = ends
        """How many layers are kept at either end."""

    def __call__(self, model, sample=None) -> Made:
        """Make the student; the source stays as it is."""
        depth = model.config.num_hidden_layers
        ends = range(self.ends), range(depth - self.ends, depth)
        kept = sorted({layer for end in ends for layer in end if 0 <= layer < depth})
        return Made(
            model=with_layers(model, kept),
            layers=tuple(kept),
            done=f"{self.ends} layers kept at either end",
        )
''',
    ),
    "transform": (
        "$Class",
        "from student.transforms import WeightTransform\n",
        '''
class $Class(WeightTransform):
    """Small weights left out; the others learn on."""

    def __init__(self, *, below: float = 0.01) -> None:
        """Options are keyword-only, each with a default and a type."""
        super().__init__()
        self.below = below

    def changed(self, weight):
        """(out, in) as the layer computes by it, at strength 1."""
        return weight * (weight.abs() >= self.below)
''',
    ),
    "writer": (
        "$Class",
        "",
        '''
class $Class:
    """Of some drawn texts the longest."""

    by_likelihood = False

    def __init__(self, *, candidates: int = 4, temperature: float = 1.0) -> None:
        """Options are keyword-only, each with a default and a type."""
        self.candidates, self.temperature = candidates, temperature

    def fields(self):
        """Settings of transformers' GenerationConfig."""
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_k": 0,
            "num_return_sequences": self.candidates,
        }

    def chosen(self, candidates):
        """The place of the longest, the first of equal ones."""
        lengths = [len(text) for text in candidates]
        return [lengths.index(max(lengths))]
''',
    ),
    "evaluator": (
        "$Class",
        "from student.evaluate import per_text\n"
        "from student.evaluators import EvalContext, Measured, Metric\n",
        '''
class $Class:
    """How often the next token is among the likeliest ones."""

    metrics = {"$ident": Metric("%", "higher")}
    of_teachers = False

    def __init__(self, *, likeliest: int = 5) -> None:
        """Options are keyword-only, each with a default and a type."""
        self.likeliest = likeliest
        """How many tokens are looked at."""

    def __call__(self, ctx: EvalContext) -> Measured:
        """By domain; a domain's tokens weigh alike."""

        def right_tokens(logits, batch):
            known = batch.has_text[:, 1:]
            likeliest = logits[:, :-1].topk(self.likeliest).indices
            right = (likeliest == batch.ids[:, 1:, None]).any(-1) & known
            return list(zip(right.sum(1).tolist(), known.sum(1).tolist(), strict=True))

        model, sums = ctx.subject, {}
        each = per_text(model.capture, model.encode, ctx.samples, right_tokens)
        for sample, (right, tokens) in zip(ctx.samples, each, strict=True):
            before = sums.get(sample.domain, (0, 0))
            sums[sample.domain] = before[0] + right, before[1] + tokens
        shares = {d: 100 * right / n for d, (right, n) in sums.items() if n}
        return Measured({"$ident": shares}, [] if shares else ["$name: no text"])
''',
    ),
    "curriculum": (
        "$Class",
        "import torch\n\nfrom student.curriculum import Draw, Scores\n",
        '''
class $Class:
    """Every step holds the shortest and the longest of some drawn texts."""

    needs = frozenset({"length"})  # columns that are measured for it
    leaves_out = True  # texts of middling length may never be read; else leave it out

    def __init__(self, *, drawn: int = 4) -> None:
        """Options are keyword-only, each with a default and a type."""
        if drawn < 1:
            raise ValueError(f"drawn must be >= 1, got {drawn}")
        self.drawn = drawn

    def __call__(self, scores: Scores, draw: Draw) -> list[int]:
        """Numbers of draw.size texts: whatever is drawn, by seed and place."""
        seed = draw.seed * 1_000_003 + draw.first
        generator = torch.Generator().manual_seed(seed % 2**63)
        asked = draw.size * self.drawn
        some = torch.randint(len(scores), (asked,), generator=generator)
        order = some[scores.columns["length"][some].argsort(stable=True)]
        half = draw.size // 2
        return [*order[:half].tolist(), *order[asked - draw.size + half :].tolist()]
''',
    ),
    "phase": (
        "$NAME",
        "",
        """
$NAME = {
    "title": "three teachers, a sharper gate",
    "teachers": {"min": 3},
    "fuse": {"fusion_method": "learnable", "temperature": 0.5},
    "loss": {"outcome_every": 4},
}
""",
    ),
}
"""Kind -> what is offered, its imports, its code."""
