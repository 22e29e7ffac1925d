"""Numbers that move while a phase trains."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from align.schedules.losses import LossRecord
    from align.schedules.rules import (
        RULES,
        Moment,
        Rule,
        needs_domains,
        needs_losses,
        reads,
        reads_losses,
        signals_of,
    )
    from align.schedules.seen import SeenRecord
    from align.schedules.setting import (
        ScheduledNotNegative,
        ScheduledPositive,
        ScheduledRate,
        ScheduledShare,
        ScheduledShareBelowOne,
        Setting,
        is_on,
        is_schedule,
        start_of,
    )
    from align.schedules.timetable import Timetable
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "RULES",
    "LossRecord",
    "Moment",
    "Rule",
    "ScheduledNotNegative",
    "ScheduledPositive",
    "ScheduledRate",
    "ScheduledShare",
    "ScheduledShareBelowOne",
    "SeenRecord",
    "Setting",
    "Timetable",
    "is_on",
    "is_schedule",
    "needs_domains",
    "needs_losses",
    "reads",
    "reads_losses",
    "signals_of",
    "start_of",
]
