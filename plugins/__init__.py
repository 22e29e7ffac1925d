"""Names for everything a config can choose, and the hooks that offer them."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from plugins.entry import PROJECT, Entry
    from plugins.errors import Failure, PluginError
    from plugins.hookspecs import hookimpl, hookspec
    from plugins.registry import KINDS, Registry
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "KINDS",
    "PROJECT",
    "Entry",
    "Failure",
    "PluginError",
    "Registry",
    "hookimpl",
    "hookspec",
]
