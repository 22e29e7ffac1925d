"""The maker ``layers``: some of a model's layers, everything else as it was."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from align.errors import InputError
from align.layer_map import STRATEGIES
from teacher.making.base import Made, Sample
from teacher.making.stack import check_kept, depth_of, with_layers
from teacher.making.worth import layer_change, layer_importance, search

Rule = Literal["uniform", "first", "floor", "importance", "density", "search"]
RULES: tuple[Rule, ...] = get_args(Rule)
_SAMPLED = ("importance", "density", "search")


class Layers:
    """Keep some layers, by their numbers or by a rule.

    With all layers kept the student's logits are the source's, bit for bit.
    """

    def __init__(self, *, keep: int | list[int] = 0, rule: Rule = "uniform") -> None:
        """Say which.

        Args:
            keep: how many layers, 0 for half of them (rounded up), or their numbers
                from 0.
            rule: of a number of layers: ``uniform``, evenly spaced, the lowest and the
                highest among them; ``first``, the lowest; ``floor``, layer ``⌊i L/n⌋``
                for the i-th of n; ``importance``, without which the loss would move
                most; ``density``, that change the residual stream most; ``search``,
                what is left when the layer that a sample misses least is left out
                again and again.

        Raises:
            InputError: numbers that cannot be meant.
        """
        if isinstance(keep, list):
            check_kept(keep)
            if rule != "uniform":
                raise InputError(
                    f"rule {rule} chooses layers where keep says how many, and keep is "
                    f"{keep}; leave rule out, or give a number"
                )
        elif keep < 0:
            raise InputError(f"keep is {keep}; give a number of layers, or their list")
        if rule not in RULES:
            raise InputError(f"rule is {rule!r}; valid are {', '.join(RULES)}")
        self.keep, self.rule = keep, rule

    @property
    def needs_sample(self) -> bool:
        """Whether the rule looks at what layers compute."""
        return not isinstance(self.keep, list) and self.rule in _SAMPLED

    def __call__(self, model: nn.Module, sample: Sample | None = None) -> Made:
        """See :meth:`teacher.making.base.StudentMaker.__call__`."""
        kept = self.kept(model, sample)
        depth = depth_of(model)
        by = "" if isinstance(self.keep, list) else f" by {self.rule}"
        return Made(
            model=with_layers(model, kept),
            layers=tuple(kept),
            done=f"layers {', '.join(map(str, kept))} of {depth} kept{by}",
        )

    def kept(self, model: nn.Module, sample: Sample | None = None) -> list[int]:
        """The numbers of the layers that are kept, ascending.

        Raises:
            InputError: more than there are.
        """
        depth = depth_of(model)
        if isinstance(self.keep, list):
            check_kept(self.keep, depth)
            return self.keep
        count = self.keep or -(-depth // 2)
        if count > depth:
            raise InputError(
                f"keep is {count}, but {type(model).__name__} has {depth} layers"
            )
        if count == depth or self.rule == "first":
            return list(range(count))
        if self.rule in ("uniform", "floor"):
            return list(STRATEGIES[self.rule](depth, count).heaviest)
        assert sample is not None, "makers that need a sample are given one"
        if self.rule == "search":
            return search(model, sample, count)
        worth = layer_importance if self.rule == "importance" else layer_change
        return sorted(worth(model, sample).topk(count).indices.tolist())
