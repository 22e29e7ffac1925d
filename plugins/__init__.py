"""Names for everything a config can choose, and the hooks that offer them."""

from plugins.errors import Failure, PluginError
from plugins.hookspecs import PROJECT, hookimpl, hookspec
from plugins.registry import KINDS, Entry, Registry

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
