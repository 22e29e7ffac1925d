"""What tests log is caught at the root, as earlier versions of pytest did.

pytest 9.1 also visits every logger there is, a thousand where transformers and
DeepSpeed are imported, for those that hand nothing on: six times a test. A test that
asks what such a logger says adds ``caplog.handler`` to it.
"""

from __future__ import annotations

import logging
from typing import Any

from _pytest import logging as of_pytest

CATCHING: Any = of_pytest.catching_logs


class RootLogs(CATCHING):
    """Adds its handler to the root alone; the other end takes it off again."""

    def __enter__(self) -> Any:
        """As pytest's own, without the walk over all loggers."""
        root = logging.getLogger()
        if self.level is not None:
            self.handler.setLevel(self.level)
        root.addHandler(self.handler)
        self.attached_loggers.append(root)
        if self.level is not None:
            self.orig_level = root.level
            root.setLevel(min(self.orig_level, self.level))
        return self.handler


def catch_at_root() -> None:
    """Have pytest do so, where its version does otherwise."""
    if "attached_loggers" in getattr(CATCHING, "__slots__", ()):
        of_pytest.catching_logs = RootLogs  # type: ignore[misc]
