"""What a term may choose by name, and what goes together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.errors import InputError
from student.match.contrast import Contrastive
from student.match.distance import (
    Cosine,
    Distance,
    Gram,
    Mse,
    SmoothL1,
    alone,
    of_rows,
)
from student.match.projector import PROJECTORS
from student.match.rows import Js, Kl, Sparse, Squared, Wasserstein
from student.match.sites import SITES, SiteName
from student.match.spectrum import Spectrum
from student.match.transport import Transport
from student.match.whole import Cka, Correlation, Mmd

DISTANCES: dict[str, Any] = {
    "mse": Mse,
    "smooth_l1": SmoothL1,
    "cosine": Cosine,
    "gram": Gram,
    "cka": Cka,
    "correlation": Correlation,
    "mmd": Mmd,
    "contrastive": Contrastive,
    "spectrum": Spectrum,
    "transport": Transport,
    "kl": Kl,
    "js": Js,
    "wasserstein": Wasserstein,
    "sparse": Sparse,
    "squared": Squared,
}
"""Built-in distances, by name."""

Chosen = str | dict[str, Any]
"""``NAME``, or ``{use: NAME, option: value}``; in code also a factory."""


def factory(chosen: Any, known: Mapping[str, Any]) -> Any:
    """What a name, or a name with options, stands for among the built-in ones."""
    if callable(chosen):
        return chosen
    options = {"use": chosen} if isinstance(chosen, str) else dict(chosen)
    name = options.pop("use", None)
    if name not in known:
        raise InputError(f"no {name!r} among {', '.join(known)}")
    return lambda *sizes: known[name](*sizes, **options)


def check_site(
    site: SiteName,
    distance: Distance,
    *,
    projected: bool,
    apart: bool,
    pool: int,
    by_layer: bool,
    scaled: bool,
) -> None:
    """See that the distance compares what the site gives, and options apply to it.

    Args:
        site: a name.
        distance: chosen.
        projected: a projector is.
        apart: heads or tokens of attention are told apart.
        pool: tokens that are compared as one.
        by_layer: layers are told apart.
        scaled: a scale is named.

    Raises:
        InputError: they do not go together.
    """
    _check_blocks(site, distance, projected or pool > 1 or scaled)
    if by_layer and not SITES[site].layered:
        raise InputError(f"{site} are of no layer; leave layers and layer_weights out")
    rows = SITES[site].rows
    if of_rows(distance) != rows:
        fits = [name for name, made in DISTANCES.items() if of_rows(made) == rows]
        raise InputError(
            f"the distance compares {'features' if rows else 'rows of attention'}, and "
            f"site: {site} gives {'rows' if rows else 'features'}; choose one of "
            f"{', '.join(fits)}"
        )
    for option, given in (
        ("projector", projected),
        ("pool", pool > 1),
        ("scale", scaled),
    ):
        if rows and given:
            raise InputError(
                f"rows of attention are compared as they are; leave {option} out"
            )
    if not rows and apart:
        raise InputError(
            f"heads and keys say how attention is compared, and site is {site}; leave "
            "them out, or compare site: attention"
        )


def _check_blocks(site: SiteName, distance: Distance, changed: bool) -> None:
    if not SITES[site].blocks:
        return
    if changed:
        raise InputError(
            f"{site} are compared as they are, a few places at a time; leave "
            "projector, pool and scale out"
        )
    if not alone(distance):
        fits = [name for name, made in DISTANCES.items() if alone(made)]
        raise InputError(
            f"{site} are compared place by place, a few at a time; choose one of "
            f"{', '.join(fits)}, or a divergence by output.kd"
        )


def check_widths(
    site: SiteName, distance: Distance, student: int, teachers: Mapping[str, int]
) -> None:
    """See that both sides can be compared as they are.

    Args:
        site: a name.
        distance: chosen.
        student: its width there.
        teachers: theirs, by name.

    Raises:
        InputError: widths differ, and the distance compares equal ones.
    """
    other = [name for name, width in teachers.items() if width != student]
    if not other or not distance.equal_widths:
        return
    free = [name for name, made in DISTANCES.items() if not made.equal_widths]
    raise InputError(
        f"{site} are {student} wide in the student and {teachers[other[0]]} in teacher "
        f"{other[0]!r}, and the distance compares equal widths alone; give a projector "
        f"({', '.join(PROJECTORS)}), or a distance of any widths ({', '.join(free)})"
    )
