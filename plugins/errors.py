"""What goes wrong with plugins."""

from __future__ import annotations

from dataclasses import dataclass


class PluginError(ValueError):
    """A plugin cannot be used; the message names it and what to do."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An installed plugin that was skipped because it does not work."""

    name: str
    """Its entry point."""
    distribution: str
    """The installed distribution it comes from."""
    version: str
    """That distribution's version."""
    reason: str
    """The error, in one line."""

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.name!r} of {self.distribution} {self.version}: {self.reason}"
