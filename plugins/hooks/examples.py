"""Working examples of the kinds that have to do with whole models, and of phases.

They are part of :mod:`plugins.templates`.
"""

from __future__ import annotations

EXAMPLES_OF_MODELS: dict[str, tuple[str, str, str]] = {
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
