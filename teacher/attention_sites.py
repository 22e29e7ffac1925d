"""See every attention call of a transformers model, and answer in its place.

One function is registered with transformers' attention interface. It finds its
state on the attention module it is called for, so that models, threads and
recomputations in a backward pass never see each other's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from torch import Tensor, nn

from teacher.rotary import Positions

SDPA = "mtkd"
"""Name under which the attention function is registered."""
EAGER = "mtkd_eager"
"""The same for models that sdpa cannot serve (soft caps, attention sinks)."""
_SITE = "_mtkd_site"


class Listener(Protocol):
    """What hears of attention calls while it is attached."""

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Hear of a module's inputs; may replace them."""

    def visit(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Hear of one call; return the keys and values to attend to."""


class Site:
    """The place of a listener on one attention module."""

    def __init__(self) -> None:
        """Start with nobody listening."""
        self.listener: Listener | None = None


def register() -> None:
    """Make the attention functions and their masks known to transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import (
        AttentionMaskInterface,
        eager_mask,
        sdpa_mask,
    )

    AttentionInterface.register(SDPA, _attend_with_sdpa)
    AttentionInterface.register(EAGER, _attend_eagerly)
    AttentionMaskInterface.register(SDPA, sdpa_mask)
    AttentionMaskInterface.register(EAGER, eager_mask)


def prepare(modules: Sequence[nn.Module]) -> None:
    """Give each attention module a place to listen at; once is enough."""
    for module in modules:
        if not hasattr(module, _SITE):
            setattr(module, _SITE, Site())
            module.register_forward_pre_hook(_before, with_kwargs=True)


@contextmanager
def listening(modules: Sequence[nn.Module], listener: Listener) -> Iterator[None]:
    """Attach a listener to modules for the length of one forward.

    Modules not yet prepared are attached to without hearing ``before``.

    Raises:
        RuntimeError: another forward through the model is under way.
    """
    sites = []
    try:
        for module in modules:
            if not hasattr(module, _SITE):
                setattr(module, _SITE, Site())
                temporary = True
            else:
                temporary = False
            site = getattr(module, _SITE)
            if site.listener is not None:
                raise RuntimeError(
                    f"{type(module).__name__} is already being captured; one forward "
                    "at a time, and one copy of the model per thread"
                )
            site.listener = listener
            sites.append((module, site, temporary))
        yield
    finally:
        for module, site, temporary in sites:
            site.listener = None
            if temporary:
                delattr(module, _SITE)


def noted_positions(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Positions | None:
    """Find the (cos, sin) pair among the inputs of an attention module."""
    found = kwargs.get("position_embeddings")
    if found is None:
        cls: Any = type(module)
        index = _position_argument(cls)
        found = args[index] if index is not None and index < len(args) else None
    if isinstance(found, tuple) and len(found) == 2:
        cos, sin = found
        if isinstance(cos, Tensor) and isinstance(sin, Tensor) and cos.ndim == 3:
            return cos, sin
    return None


@cache
def _position_argument(cls: Any) -> int | None:
    names = list(inspect.signature(cls.forward).parameters)[1:]  # without self
    found = "position_embeddings"
    return names.index(found) if found in names else None


def _before(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    listener = getattr(module, _SITE).listener
    return None if listener is None else listener.before(module, args, kwargs)


def _heard(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    site = getattr(module, _SITE, None)
    if site is None or site.listener is None:
        return key, value
    heard: tuple[Tensor, Tensor] = site.listener.visit(
        module, query, key, value, mask, options
    )
    return heard


def _attend_with_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    key, value = _heard(module, query, key, value, attention_mask, options)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _attend_eagerly(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    key, value = _heard(module, query, key, value, attention_mask, options)
    own = sys.modules[type(module).__module__].eager_attention_forward
    return own(module, query, key, value, attention_mask, **options)
