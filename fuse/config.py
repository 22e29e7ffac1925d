"""Settings of the fusion stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from align.errors import InputError
from align.schedules import (
    ScheduledNotNegative,
    ScheduledPositive,
    Setting,
    is_schedule,
)
from align.support.field_types import AtLeastOne, Count, NotNegative, check_fields
from teacher.names import PrototypeMethod, Similarity

Agreement = Literal["cosine", "mse"]
"""What holds teachers together in the latent, see :mod:`fuse.z.agreement`."""
COLLAPSE_SHARE = 0.95
"""Mean weight of one teacher above which routing counts as collapsed."""
STARVED_SHARE = 0.01
"""Mean weight of a teacher below which it counts as starved."""
UNIFORM_ENTROPY = 0.98
"""Mean entropy over log M above which routing counts as uniform."""

FUSION_METHODS = ("fixed", "similarity", "learnable")
"""The built-in ones; any other value names a registered router."""

SOFT, HARD, SAMPLED, TOP_K = "soft", "hard", "sampled", "top_k"
CHOICES = (SOFT, HARD, SAMPLED, TOP_K)
"""What ``fuse.choice`` may be."""

LEARNABLE = "learnable"
"""As a fusion method, stands for the router of ``router_type``."""
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "fixed": ("weights",),
    "similarity": ("temperature", "similarity", "prototype_method", "num_clusters"),
    "z": (
        *("z_dim", "z_hidden", "z_agreement"),
        *("lambda_reconstruction", "lambda_agreement"),
    ),
}
"""Settings that are short for options of a built-in router or space."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseConfig:
    """How the teachers' keys and values become one."""

    fusion_method: str | dict[str, Any] = "fixed"
    """What weighs teachers, a registered router: ``fixed``, ``similarity``,
    ``prequential`` (by what was read), ``label`` (a domain's own teacher) or a
    plugin's; ``learnable`` for that of ``router_type``. With options ``{use: NAME,
    option: value}``."""
    space: str | dict[str, Any] = "student"
    """Where teachers meet, a registered space: ``student``, their tensors averaged in
    the student's basis; ``losses``, their losses averaged (no common basis needed);
    ``z``, tensors in the shared latent Z; or a plugin's. With options ``{use: NAME,
    option: value}``."""
    weights: list[NotNegative] | None = None
    """One share per teacher for ``fixed``, on any scale; null: equal shares."""
    router_type: str | dict[str, Any] = "mlp"
    """A registered router: mlp, gate, attention, or a plugin's, as there."""
    routing_level: Literal["sample", "token"] = "token"
    """One weighting per text, or one per student token. A sample's weights have
    seen the whole text, so only ``token`` is strictly causal."""
    routing_per_layer: bool = False
    """Give every student layer a learned router of its own."""
    choice: str | dict[str, Any] = "soft"
    """Whom a text is learned from: ``soft``, all as they are weighed; ``hard``, the
    one that weighs most; ``sampled``, one that is drawn by the weights; ``{use: top_k,
    k: 2}``, the k that weigh most. With ``routing_level: sample`` and a router that
    decides before teachers read (label, difficulty, fixed), the others do not run; nor,
    with ``soft``, does a teacher on texts for which such a router gives it no
    weight."""
    temperature: ScheduledPositive = 1.0
    """Softmax temperature of the routing weights; lower is sharper."""
    similarity: Similarity = "cosine"
    """How a query is compared with a teacher's prototype."""
    prototype_method: PrototypeMethod = "mean"
    """How a teacher's prototype is made from its calibration sample."""
    num_clusters: AtLeastOne = 4
    """Prototypes per teacher for ``kmeans``."""
    entropy_reg_strength: ScheduledNotNegative = 0.01
    """Loss weight per nat of routing entropy; 0 disables it."""
    entropy_target: Literal["specialized", "diverse"] = "specialized"
    """specialized rewards low entropy (few teachers per token), diverse high."""
    entropy_warmup_steps: Count = 0
    """Short for ``entropy_reg_strength: {from: 0, to: …, steps: …}``; early
    specialisation locks in the first teacher that happened to help."""
    z_dim: AtLeastOne = 64
    """Width of the shared latent, per layer, for keys and for values."""
    z_hidden: Count = 0
    """Width of the residual MLP around each Z coder; 0: linear coders."""
    z_agreement: Agreement = "mse"
    """How the latents of two teachers on one token are compared."""
    lambda_reconstruction: ScheduledNotNegative = 1.0
    """Loss weight of decoding each teacher back from Z."""
    lambda_agreement: ScheduledNotNegative = 0.1
    """Loss weight of agreement across teachers in Z."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take.
        """
        check_fields(self, "fuse")
        for field in ("fusion_method", "router_type", "space"):
            choice_of(f"fuse.{field}", getattr(self, field))
        _check_choice(self.choice)
        if is_schedule(self.entropy_reg_strength) and self.entropy_warmup_steps:
            raise ValueError(
                f"fuse.entropy_warmup_steps={self.entropy_warmup_steps} is short for a "
                "schedule, and fuse.entropy_reg_strength is one; leave the first out"
            )
        if self.weights is not None:
            check_weights("fuse.weights", self.weights)

    @property
    def router(self) -> str:
        """The registered router that weighs teachers."""
        return self._router[0]

    @property
    def router_options(self) -> dict[str, Any]:
        """What it is built with beside sizes; some settings here are such options."""
        return self._settings_of(self.router) | self._router[1]

    @property
    def space_name(self) -> str:
        """The registered space in which teachers meet."""
        return choice_of("fuse.space", self.space)[0]

    @property
    def space_options(self) -> dict[str, Any]:
        """What it is built with beside sizes; some settings here are such options."""
        name, options = choice_of("fuse.space", self.space)
        return self._settings_of(name) | options

    @property
    def _router(self) -> tuple[str, dict[str, Any]]:
        name, options = choice_of("fuse.fusion_method", self.fusion_method)
        if name != LEARNABLE:
            return name, options
        name, more = choice_of("fuse.router_type", self.router_type)
        return name, more | options

    @property
    def chosen(self) -> str:
        """How teachers are chosen, one of :data:`CHOICES`."""
        return choice_of("fuse.choice", self.choice)[0]

    @property
    def choice_k(self) -> int:
        """How many of them."""
        k: int = choice_of("fuse.choice", self.choice)[1].get("k", 1)
        return k

    @property
    def moving_temperature(self) -> Setting | None:
        """``temperature`` where it is a schedule."""
        return self.temperature if is_schedule(self.temperature) else None

    @property
    def entropy_strength(self) -> Setting:
        """``entropy_reg_strength``, growing from 0 where ``entropy_warmup_steps``."""
        if not self.entropy_warmup_steps:
            return self.entropy_reg_strength
        assert isinstance(self.entropy_reg_strength, float | int)
        return {
            "from": 0.0,
            "to": self.entropy_reg_strength,
            "steps": self.entropy_warmup_steps,
        }

    def _settings_of(self, name: str) -> dict[str, Any]:
        settings = {
            setting: getattr(self, setting) for setting in SETTINGS.get(name, ())
        }
        if is_schedule(settings.get("temperature")):
            settings["temperature"] = 1.0  # the weigher's moves instead
        return settings


def choice_of(
    setting: str, value: str | Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Take apart what chooses a plugin: ``NAME``, or ``{use: NAME, option: value}``.

    Args:
        setting: its name, for errors.
        value: as the config says it.

    Returns:
        The registered name, and the options that stand beside it.

    Raises:
        ValueError: no name can be read.
    """
    options = {} if isinstance(value, str) else dict(value)
    name = value if isinstance(value, str) else options.pop("use", None)
    if not isinstance(name, str) or not name or name != name.strip():
        raise ValueError(
            f"{setting} is {value!r}; give a registered name (`mtkd plugins list` "
            "shows them), or {use: NAME} with its options"
        )
    return name, options


def _check_choice(value: str | Mapping[str, Any]) -> None:
    """Refuse a choice that nobody knows how to make.

    Raises:
        InputError: another name or option, or ``top_k`` without a number.
    """
    name, options = choice_of("fuse.choice", value)
    if name not in CHOICES:
        raise InputError(
            f"fuse.choice is {name!r}; choose from {', '.join(CHOICES[:-1])}, or "
            "{use: top_k, k: 2}"
        )
    k = options.pop("k", None) if name == TOP_K else 1
    if options or type(k) is not int or k < 1:
        raise InputError(
            f"fuse.choice is {value!r}; top_k takes the number of teachers that are "
            "asked, {use: top_k, k: 2}, and the others take no option"
        )


def check_weights(name: str, weights: list[float]) -> None:
    """Refuse weights from which no share can be computed.

    Raises:
        InputError: empty, negative, not finite, or all zero.
    """
    if not weights:
        raise InputError(f"{name} is empty; give one weight per teacher")
    for index, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(
                f"{name}[{index}] is {weight}; weights are finite and >= 0"
            )
    if sum(weights) == 0:
        raise InputError(f"{name} is all zero; give at least one teacher a weight > 0")
