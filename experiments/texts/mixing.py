"""How often the texts of each domain are read."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from align.errors import InputError


def mixed(
    domains: Sequence[str],
    weights: Mapping[str, float],
    temperature: float,
    seed: int,
) -> tuple[Sequence[int], list[str]]:
    """Repeat texts until domains are read in the shares that are asked for.

    Every text stands at least once: no domain is read less than whole, and others are
    read again. What is not a whole number of readings is drawn.

    Args:
        domains: of each text to learn from.
        weights: of domains, > 0; 1 of those not named.
        temperature: >= 1 divides the logarithms of the domains' sizes.
        seed: decides which texts are read once more.

    Returns:
        The texts' places, in ascending order, and a sentence on what share each domain
        has; none where nothing is repeated.

    Raises:
        InputError: a weight of a domain that has no text.

    Source:
        Shares proportional to w * n ** (1 / temperature), the sampling of multilingual
        models (Arivazhagan et al. 2019, arXiv 1907.05019, section 4.2), with a weight.
        Departure: an epoch grows instead of leaving texts out.
    """
    sizes = Counter(domains)
    check_mix(weights, sizes)
    times = {
        domain: weights.get(domain, 1.0) * size ** (1 / temperature - 1)
        for domain, size in sizes.items()
    }
    least = min(times.values(), default=1.0)
    times = {domain: rate / least for domain, rate in times.items()}
    if all(rate < 1 + 1e-9 for rate in times.values()):
        return range(len(domains)), []
    again = {
        domain: iter(_drawn(sizes[domain], rate, random.Random(f"{seed} {domain}")))
        for domain, rate in times.items()
    }
    out: list[int] = []
    counts = Counter[str]()
    for place, domain in enumerate(domains):
        readings = next(again[domain])
        out += [place] * readings
        counts[domain] += readings
    shares = ", ".join(
        f"{domain} {counts[domain] / len(out):.1%} ({counts[domain] / size:.2f} times)"
        for domain, size in sizes.items()
    )
    return out, [f"an epoch of {len(out):,} samples mixes {shares} (data.mix)"]


def check_mix(weights: Iterable[str], domains: Collection[str]) -> None:
    """See that there is text of every domain that is weighed.

    Raises:
        InputError: of one there is none.
    """
    for domain in weights:
        if domain not in domains:
            raise InputError(
                f"data.mix: no training text of the domain {domain!r}; valid are "
                f"{', '.join(domains)}"
            )


def _drawn(size: int, rate: float, drawing: random.Random) -> list[int]:
    """How often each of so many texts is read, ``rate`` times on average."""
    readings = round(size * rate)
    whole, rest = divmod(readings, size)
    once_more = set(drawing.sample(range(size), rest))
    return [whole + (place in once_more) for place in range(size)]
