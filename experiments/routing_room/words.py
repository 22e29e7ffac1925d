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


def gain_warnings(plain: Mapping[str, Any]) -> list[str]:
    """Where routing is hardly worth having: on all texts together, and by domain.

    Args:
        plain: of :meth:`experiments.routing_room.read.RoomByDomain.plain`.

    Returns:
        Nothing where every domain has room.
    """
    whole = [gain_sentence(plain["gain"])] if plain["gain"] < LITTLE else []
    return whole + _little_in(plain)


def _little_in(plain: Mapping[str, Any]) -> list[str]:
    """The warning that names domains, where there are several and one has no room."""
    gains = {name: room["gain"] for name, room in plain["domains"].items()}
    little = {name: gain for name, gain in gains.items() if gain < LITTLE}
    if not little or len(gains) == 1:
        return []
    named = ", ".join(f"{gain:.1%} in {name!r}" for name, gain in little.items())
    return [
        f"routing can gain at most {named}: below {LITTLE:.0%} a domain's texts are no "
        "reason for a router"
    ]


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
        *(
            f"in {domain!r} routing can gain at most {room['gain']:.1%}"
            for domain, room in plain["domains"].items()
        ),
        gain_sentence(plain["gain"]),
        *(f"warning: {warning}" for warning in _little_in(plain)),
    ]
