"""Names for everything a config can choose, and the hooks that offer them."""

from plugins.entry import Entry
from plugins.errors import Failure, PluginError
from plugins.hookspecs import PROJECT, hookimpl, hookspec
from plugins.registry import KINDS, Registry

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
