"""Settings of the fusion stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

FUSION_METHODS = ("fixed", "similarity", "learnable")
"""The built-in ones; any other value names a registered router."""

Z_OPTIONS = (
    *("z_dim", "z_hidden", "z_agreement"),
    *("lambda_reconstruction", "lambda_agreement"),
)
"""Settings of the space ``z``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseConfig:
    """How the teachers' keys and values become one."""

    fusion_method: str = "fixed"
    """fixed, similarity, learnable, or the name of a registered router, which
    is short for learnable with that ``router_type``."""
    space: str = "student"
    """Where teachers meet, a registered space: ``student``, their tensors averaged in
    the student's basis; ``losses``, their losses averaged (no common basis needed);
    ``z``, tensors in the shared latent Z; or a plugin's."""
    weights: list[float] | None = None
    """One share per teacher for ``fixed``, >= 0, any scale; None: equal shares."""
    router_type: str = "mlp"
    """A registered router: mlp, gate, attention, or a plugin's."""
    routing_level: Literal["sample", "token"] = "token"
    """One weighting per text, or one per student token. A sample's weights have
    seen the whole text, so only ``token`` is strictly causal."""
    routing_per_layer: bool = False
    """Give every student layer a learned router of its own."""
    temperature: float = 1.0
    """Softmax temperature of the routing weights, > 0; lower is sharper."""
    similarity: Literal["cosine", "dot", "l2"] = "cosine"
    """How a query is compared with a teacher's prototype."""
    prototype_method: Literal["mean", "cls", "kmeans"] = "mean"
    """How a teacher's prototype is made from its calibration sample."""
    num_clusters: int = 4
    """Prototypes per teacher for ``kmeans``, >= 1."""
    entropy_reg_strength: float = 0.01
    """Loss weight per nat of routing entropy, >= 0; 0 disables it."""
    entropy_target: Literal["specialized", "diverse"] = "specialized"
    """specialized rewards low entropy (few teachers per token), diverse high."""
    entropy_warmup_steps: int = 0
    """Optimiser steps over which the strength grows linearly from 0, >= 0:
    early specialisation locks in the first teacher that happened to help."""
    z_dim: int = 64
    """Width of the shared latent, per layer, for keys and for values, >= 1."""
    z_hidden: int = 0
    """Width of the residual MLP around each Z coder, >= 0; 0: linear coders."""
    z_agreement: Literal["cosine", "mse"] = "mse"
    """How the latents of two teachers on one token are compared."""
    lambda_reconstruction: float = 1.0
    """Loss weight of decoding each teacher back from Z, >= 0."""
    lambda_agreement: float = 0.1
    """Loss weight of agreement across teachers in Z, >= 0."""

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            ValueError: a value is out of range; the message names the field.
        """
        for field, allowed in _CHOICES.items():
            _check_choice(field, getattr(self, field), allowed)
        for field in ("fusion_method", "router_type", "space"):
            value = getattr(self, field)
            if not value or value != value.strip():
                raise ValueError(
                    f"fuse.{field} is {value!r}; give a registered name "
                    "(`mtkd plugins list` shows them)"
                )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"fuse.temperature must be > 0, got {self.temperature}")
        for field, least in _AT_LEAST.items():
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"fuse.{field} must be >= {least}, got {value}")
        if self.weights is not None:
            check_weights("fuse.weights", self.weights)

    @property
    def router(self) -> str | None:
        """The registered router to build, None where nothing is learned."""
        if self.fusion_method in ("fixed", "similarity"):
            return None
        learnable = self.fusion_method == "learnable"
        return self.router_type if learnable else self.fusion_method

    @property
    def space_options(self) -> dict[str, Any]:
        """What the space is built with beside sizes: settings here are ``z``'s."""
        settings = Z_OPTIONS if self.space == "z" else ()
        return {name: getattr(self, name) for name in settings}


def check_weights(name: str, weights: list[float]) -> None:
    """Refuse weights from which no share can be computed.

    Raises:
        ValueError: empty, negative, not finite, or all zero.
    """
    if not weights:
        raise ValueError(f"{name} is empty; give one weight per teacher")
    for index, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"{name}[{index}] is {weight}; weights are finite and >= 0"
            )
    if sum(weights) == 0:
        raise ValueError(f"{name} is all zero; give at least one teacher a weight > 0")


def _check_choice(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"fuse.{field} is {value!r}; choose from {', '.join(allowed)}")


_CHOICES: dict[str, tuple[str, ...]] = {
    "routing_level": ("sample", "token"),
    "similarity": ("cosine", "dot", "l2"),
    "prototype_method": ("mean", "cls", "kmeans"),
    "entropy_target": ("specialized", "diverse"),
    "z_agreement": ("cosine", "mse"),
}
_AT_LEAST: dict[str, int] = {
    "num_clusters": 1,
    "entropy_reg_strength": 0,
    "entropy_warmup_steps": 0,
    "z_dim": 1,
    "z_hidden": 0,
    "lambda_reconstruction": 0,
    "lambda_agreement": 0,
}
