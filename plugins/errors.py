"""What goes wrong with plugins."""

from __future__ import annotations

from dataclasses import dataclass

from align.errors import PROGRAM_ERROR, MtkdError


class PluginError(MtkdError, ValueError):
    """A plugin cannot be used; the message names it and what to do."""

    def __init__(
        self,
        message: str,
        *,
        kind: str | None = None,
        name: str | None = None,
        distribution: str | None = None,
        version: str | None = None,
    ) -> None:
        """Keep the message, and whose error it is where one plugin is to blame.

        Args:
            message: one line that already names the plugin.
            kind: of what it offers, such as ``router``.
            name: as a config calls it.
            distribution: the installed distribution it comes from.
            version: that distribution's version.
        """
        super().__init__(message)
        self.kind, self.name = kind, name
        self.distribution, self.version = distribution, version


class PluginCrashError(PluginError):
    """A plugin's own code failed while it was used; the cause is its exception.

    Nothing that a setting puts right: the plugin's author needs the traceback, so the
    run's folder keeps it and ``mtkd`` ends as for a mistake of ours.
    """

    exit_code = PROGRAM_ERROR


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
