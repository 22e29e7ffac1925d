"""See every attention call of a transformers model, and answer in its place.

While somebody listens, transformers' attention interface holds functions of ours
in place of every implementation (sdpa, eager, flash, …). Each hands the call to
whoever listens at that attention module in that thread, and then to the very
implementation it stands for. With the last listener everything is as before, so
what a gradient checkpoint recomputes later is the model's own doing.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from torch import Tensor, nn

from teacher.capture.rotary import Positions

_SITE = "_mtkd_site"
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
"""What a modelling file calls the interface it asks for implementations."""
_EAGER = "eager_attention_forward"
"""What a modelling file calls the implementation which the interface lacks."""
_lock = threading.Lock()


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


class _Site:
    """The place on one attention module where threads listen."""

    def __init__(self, module: nn.Module) -> None:
        self.listeners: dict[int, Listener] = {}
        self.hook = module.register_forward_pre_hook(_before, with_kwargs=True)


class _Detour:
    """Our functions in one interface, and what stood there before."""

    def __init__(self, interface: Any) -> None:
        self.interface = interface
        self.users = 0
        self.replaced = dict(interface._local_mapping)
        for name, function in dict(interface).items():
            interface[name] = _hearing(function)
        interface["eager"] = _hearing(None)

    def end(self) -> None:
        self.interface._local_mapping = self.replaced


_detours: dict[int, _Detour] = {}
"""By identity of the interface, while there are users."""


@contextmanager
def listening(modules: Sequence[nn.Module], listener: Listener) -> Iterator[None]:
    """Attach a listener to modules for the length of one forward.

    Only calls in this thread are heard. Afterwards, also after an exception, neither
    the modules nor transformers hold anything of ours.

    Raises:
        RuntimeError: this thread has another captured forward through one of the
            modules under way.
    """
    thread = threading.get_ident()
    with _lock:
        for module in modules:
            if thread in getattr(_site(module), "listeners", ()):
                raise RuntimeError(
                    f"{type(module).__name__} is already being captured by this "
                    "thread; end that forward first"
                )
        detours = _begin(modules)
        for module in modules:
            site = _site(module) or _Site(module)
            setattr(module, _SITE, site)
            site.listeners[thread] = listener
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                _leave(module, thread)
            for detour in detours:
                detour.users -= 1
                if not detour.users:
                    _detours.pop(id(detour.interface)).end()


def eager_attention(module: nn.Module) -> Callable[..., tuple[Tensor, Any]] | None:
    """The eager implementation beside an attention module's class.

    Multimodal files name theirs ``text_eager_attention_forward`` or the like; None
    where there is none or no telling which.
    """
    names = vars(sys.modules[type(module).__module__])
    candidates = [function for name, function in names.items() if name.endswith(_EAGER)]
    eager: Callable[..., tuple[Tensor, Any]] | None = names.get(_EAGER)
    return eager or (candidates[0] if len(candidates) == 1 else None)


def noted_positions(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Positions | None:
    """Find the (cos, sin) pair among the inputs of an attention module."""
    positions = kwargs.get("position_embeddings")
    if positions is None:
        cls: Any = type(module)
        index = _position_argument(cls)
        positions = args[index] if index is not None and index < len(args) else None
    if isinstance(positions, tuple) and len(positions) == 2:
        cos, sin = positions
        if isinstance(cos, Tensor) and isinstance(sin, Tensor) and cos.ndim == 3:
            return cos, sin
    return None


@cache
def _position_argument(cls: Any) -> int | None:
    names = list(inspect.signature(cls.forward).parameters)[1:]  # without self
    argument = "position_embeddings"
    return names.index(argument) if argument in names else None


def _site(module: nn.Module) -> _Site | None:
    return module.__dict__.get(_SITE)


def _leave(module: nn.Module, thread: int) -> None:
    site = _site(module)
    assert site is not None
    del site.listeners[thread]
    if not site.listeners:
        site.hook.remove()
        delattr(module, _SITE)


def _begin(modules: Sequence[nn.Module]) -> list[_Detour]:
    files = {type(module).__module__ for module in modules}
    used = [getattr(sys.modules.get(name), _INTERFACE, None) for name in files]
    interfaces = {id(x): x for x in used if x is not None}
    for key, interface in interfaces.items():
        if key not in _detours:
            _detours[key] = _Detour(interface)
        _detours[key].users += 1
    return [_detours[key] for key in interfaces]


def _before(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    listener = _listener(module)
    return None if listener is None else listener.before(module, args, kwargs)


def _listener(module: nn.Module) -> Listener | None:
    site = _site(module)
    return None if site is None else site.listeners.get(threading.get_ident())


def _hearing(attention: Callable[..., Any] | None) -> Callable[..., Any]:
    """A function that tells the listener before ``attention`` (None: eager) attends."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **options: Any,
    ) -> Any:
        listener = _listener(module)
        if listener is not None:
            key, value = listener.visit(
                module, query, key, value, attention_mask, options
            )
        function = attention or eager_attention(module)
        assert function is not None, type(module)
        return function(module, query, key, value, attention_mask, *args, **options)

    return attend
