"""Which curriculum ``data.curriculum`` asks for, and how often it is scored anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from align.errors import InputError
from align.support.field_types import shown
from fuse.config import choice_of

NONE = "none"
RESCORE = "rescore"
PLACE = "data.curriculum"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenCurriculum:
    """One curriculum, as a config says it."""

    name: str
    """Registered."""
    options: Mapping[str, Any]
    """Of its own."""
    rescore: bool | int
    """Optimiser steps after which texts are scored anew; True: whenever a checkpoint is
    due, False: never."""

    def plain(self) -> dict[str, Any]:
        """In the long form."""
        return {"use": self.name, **self.options, RESCORE: self.rescore}

    def every(self, checkpoint_every: int) -> int:
        """Optimiser steps between two scorings, 0: the first is kept.

        Args:
            checkpoint_every: ``train.checkpoint_every``.

        Raises:
            InputError: it follows the checkpoints, and there are none.
        """
        if self.rescore is not True:
            return int(self.rescore)
        if not checkpoint_every:
            raise InputError(
                f"{PLACE}.{RESCORE} is true, which scores texts anew whenever a "
                "checkpoint is due, but train.checkpoint_every is 0; set it, or give "
                f"{PLACE}.{RESCORE} a number of optimiser steps"
            )
        return checkpoint_every


def chosen_curriculum(said: str | Mapping[str, Any]) -> ChosenCurriculum | None:
    """What ``NAME``, or ``{use: NAME, rescore: ..., option: value}``, stands for.

    Returns:
        None for ``none``.

    Raises:
        InputError: no name, or a ``rescore`` that is none.
    """
    try:
        name, options = choice_of(PLACE, said if isinstance(said, str) else dict(said))
    except ValueError as error:
        raise InputError(str(error)) from None
    rescore = options.pop(RESCORE, False)
    if not isinstance(rescore, int) or rescore < 0:
        raise InputError(
            f"{PLACE}.{RESCORE} is {shown(rescore)}; give true, false, or optimiser "
            "steps between two scorings, >= 1"
        )
    if name != NONE:
        return ChosenCurriculum(name=name, options=options, rescore=rescore)
    if options or rescore:
        raise InputError(
            f"{PLACE} is {NONE} with {', '.join(options) or RESCORE}, which nobody "
            "reads; leave that out, or name a curriculum"
        )
    return None
