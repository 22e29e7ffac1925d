"""Early exits: heads at lower layers, kept beside a student, and their worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from align.errors import InputError
from align.support.field_types import NotNegative
from align.tokens.answered import counted_text
from align.tokens.batch import TokenBatch
from align.views import NORMED
from student.evaluate import bits_and_chars
from student.evaluators.base import BATCH, EvalContext, Measured, Metric, need_text

EXITS = "exits.safetensors"
"""Beside a student's weights, where plain transformers does not look: ``layer.N``, a
(C, C) map from the normed states after layer N to what the model's head reads."""
_KEY = "layer."
NEVER = "never"
"""The part of a threshold that no token reaches."""


def write_exits(maps: Mapping[int, Tensor], folder: Path) -> None:
    """Keep heads beside a student; nothing where there are none.

    Args:
        maps: (C, C) by the number of the layer.
        folder: of the student.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{_KEY}{n}": m.detach().cpu().float().contiguous() for n, m in maps.items()
    }
    if tensors:
        save_file(tensors, folder / EXITS)


def read_exits(folder: Path) -> dict[int, Tensor]:
    """The heads beside a student, lowest first; empty where it has none."""
    from safetensors.torch import load_file

    if not (folder / EXITS).is_file():
        return {}
    kept = load_file(folder / EXITS)
    maps = {int(name.removeprefix(_KEY)): tensor for name, tensor in kept.items()}
    return dict(sorted(maps.items()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Exits:
    """What is lost where each token leaves at the first layer that is sure of the next.

    A head is sure where its likeliest token has at least a threshold's probability.
    Above 1 no token leaves early. All layers are computed here: the keys and values of
    those that a token leaves out are its own, which one who saves the work has to make
    otherwise, and neither these nor the heads' products are in the share.

    Source:
        Confidence as in BranchyNet (Teerapittayanon et al. 2016, arXiv 1709.01686),
        token by token as in CALM (Schuster et al. 2022, arXiv 2207.07061), by the
        largest probability and not the entropy or the gap to the second.
    """

    thresholds: list[NotNegative] = field(
        default_factory=lambda: [0.0, 0.5, 0.7, 0.9, 0.99, 1.1]
    )
    """Probabilities; 0 leaves at the first head, more than 1 never."""
    picture: str = ""
    """PNG or SVG file for the curve, bits over the share of layers; empty: none."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "exit_bits_per_char": Metric("bits/char", "lower"),
        "exit_layers": Metric("% of layers", "neither"),
    }
    of_teachers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """See that there are thresholds."""
        if not self.thresholds:
            raise InputError("thresholds is empty; give some, such as [0.5, 0.9]")

    def __call__(self, ctx: EvalContext) -> Measured:
        """By threshold, over all text.

        Raises:
            InputError: there is no text, or heads do not fit the model.
        """
        need_text(ctx, "exits")
        subject = ctx.subject
        heads = dict(sorted((subject.exits or {}).items()))
        if subject.exits is None and subject.folder is not None:
            heads = read_exits(subject.folder)
        if not heads:
            note = (
                f"{subject.name} has no {EXITS}; train it with a term deep_supervision"
            )
            return Measured({}, notes=[note])
        sums = torch.zeros(len(self.thresholds), 3, dtype=torch.float64)
        tokens = 0
        starts = range(0, len(ctx.samples), BATCH)
        for start in ctx.progress(starts, len(starts), f"exits of {subject.name}"):
            texts = [sample.text for sample in ctx.samples[start : start + BATCH]]
            batch = subject.encode(texts)
            sums += self._read(ctx, heads, batch)
            counted = counted_text(batch.texts, batch.spans, batch.has_text)
            tokens += int(counted.sum())
        bits = {self._part(t): float(b / c) for t, (b, c, _) in self._with(sums)}
        used = {
            self._part(t): float(100 * n / tokens) for t, (*_, n) in self._with(sums)
        }
        if self.picture:
            draw(list(used.values()), list(bits.values()), list(bits), self.picture)
        return Measured({"exit_bits_per_char": bits, "exit_layers": used})

    def _with(self, sums: Tensor) -> list[tuple[float, Tensor]]:
        return list(zip(self.thresholds, sums, strict=True))

    @staticmethod
    def _part(threshold: float) -> str:
        return NEVER if threshold > 1 else f"at {threshold:g}"

    @torch.no_grad()
    def _read(
        self, ctx: EvalContext, heads: Mapping[int, Tensor], batch: TokenBatch
    ) -> Tensor:
        """(thresholds, 3): bits, characters, and layers used as shares of the depth."""
        capture, layers = ctx.subject.capture, list(heads)
        if layers[-1] >= capture.num_layers:
            raise InputError(
                f"{EXITS} of {ctx.subject.name} has a head at layer {layers[-1]}, and "
                f"the model has layers 0..{capture.num_layers - 1}; it is of another "
                "model: delete it"
            )
        captured = capture(
            batch.ids, batch.mask, layers=layers, logits=True, states=[NORMED]
        )
        assert captured.logits is not None
        head = ctx.subject.model.get_output_embeddings()
        early = [
            F.linear(states @ heads[layer].to(states), head.weight, head.bias)
            for layer, states in zip(layers, captured.states[NORMED], strict=True)
        ]
        sure = [logits.float().softmax(-1).amax(-1) for logits in early]
        counted = counted_text(batch.texts, batch.spans, batch.has_text)
        rows = []
        for threshold in self.thresholds:
            logits = captured.logits
            used = torch.full_like(sure[0], capture.num_layers)
            for layer, at_layer, confidence in zip(
                layers[::-1], early[::-1], sure[::-1], strict=True
            ):
                leaves = confidence >= threshold
                logits = torch.where(leaves[..., None], at_layer, logits)
                used = torch.where(leaves, layer + 1.0, used)
            bits, chars = bits_and_chars(logits, batch)
            share = used[:, :-1][counted].double().sum() / capture.num_layers
            rows.append(torch.stack([bits.sum(), chars.sum().double(), share]).cpu())
        return torch.stack(rows)


def draw(
    shares: Sequence[float], bits: Sequence[float], names: Sequence[str], file: str
) -> None:
    """The curve of what is computed against what it costs.

    Args:
        shares: of the layers, %.
        bits: per character.
        names: of the points.
        file: PNG or SVG.

    Raises:
        InputError: its folder is not there.
    """
    from matplotlib.figure import Figure

    if not Path(file).absolute().parent.is_dir():
        raise InputError(f"picture is {file}, whose folder is not there; make it first")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    order = sorted(range(len(shares)), key=lambda i: shares[i])
    axes.plot([shares[i] for i in order], [bits[i] for i in order], "o-")
    for share, cost, name in zip(shares, bits, names, strict=True):
        axes.annotate(name, (share, cost), xytext=(4, 4), textcoords="offset points")
    axes.set_xlabel("layers used, %")
    axes.set_ylabel("bits per character")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=150)
