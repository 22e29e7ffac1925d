"""One name that a config can say, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from plugins.errors import PluginError

PROJECT = "mtkd"
"""Name of the distribution, the command and the entry-point group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One named thing and where it comes from."""

    kind: str
    name: str
    value: Any
    """The factory, function or mapping; see the kind's hookspec."""
    plugin: str
    distribution: str
    version: str
    digest: str = ""
    """SHA-256 of the plugin's source files, see :mod:`plugins.source`; empty for
    built-ins."""
    foreign: bool = True
    """Whether somebody else wrote it."""

    @property
    def origin(self) -> str:
        """The plugin and its distribution, for messages."""
        where = "" if self.distribution == "-" else f" ({self.distribution})"
        return f"{self.plugin!r}{where}"

    @property
    def title(self) -> str:
        """``router 'x' of plugin 'y' (dist 1.2)``."""
        release = "" if self.distribution == "-" else f"{self.distribution} "
        release = f" ({release}{self.version})" if release else ""
        kind = self.kind.replace("_", " ")
        return f"{kind} {self.name!r} of plugin {self.plugin!r}{release}"

    def error(self, problem: str, made: type[PluginError] = PluginError) -> PluginError:
        """An error that names the plugin.

        Args:
            problem: what is wrong, in a sentence that goes on after the name.
            made: the class of the error.
        """
        return made(
            f"{self.title}: {problem}",
            kind=self.kind,
            name=self.name,
            distribution=self.distribution,
            version=self.version,
        )


EARLIER = {"temperature": "schedule"}
"""What kinds were called before -> what they are called now: strangers' hooks and
tests, and records of runs, may say either."""


def kind_now(kind: str) -> str:
    """A kind's name of today."""
    return EARLIER.get(kind, kind)


@cache
def version_of_mtkd() -> str:
    """As installed, or ``checkout``."""
    try:
        return version(PROJECT)
    except PackageNotFoundError:  # run from a checkout
        return "checkout"
