"""What a router could gain, in words and rows, for consoles and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LITTLE = 0.01
"""A gain below which routing is hardly worth having."""


def gain_sentence(gain: float) -> str:
    """What a gain comes to, as a run says it."""
    said = f"routing can gain at most {gain:.1%} over equal weights"
    if gain < LITTLE:
        return f"{said}: with these teachers and texts no router can matter much"
    return said


def room_rows(plain: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table.

    Args:
        plain: of :meth:`experiments.routing_room.read.RoomByDomain.plain`.
    """
    names = plain["teachers"]
    heads = ["domain", *names, "equal weights", "weights by what was read"]
    heads += ["right teacher per text", "per stretch (not reachable)", "to gain"]
    columns = ("equal", "prequential", "per_text", "per_stretch")
    rows = []
    for domain, room in plain["domains"].items():
        bits = [room["teachers"][name] for name in names]
        bits += [room[column] for column in columns]
        shown = [f"{number:.3f}" for number in bits]
        rows.append([domain, *shown, f"{room['gain']:.1%}"])
    return heads, rows


def room_sentences(plain: Mapping[str, Any]) -> list[str]:
    """What is to be said beside the table."""
    return [
        *(
            f"teacher {name!r} is left out: {why}"
            for name, why in plain["left_out"].items()
        ),
        "within reach are weights by what was read before, and the right teacher for "
        f"every text; beyond it no weighting can save more than {plain['ceiling']:.1%},"
        " as nobody knows the right teacher for every stretch before it is read",
        gain_sentence(plain["gain"]),
    ]
