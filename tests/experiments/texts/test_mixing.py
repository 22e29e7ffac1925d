"""Domains are read in the shares that are asked for, and no text is left out."""

import math
from collections import Counter

import pytest

from align.errors import InputError
from align.text.documents import TextSample
from experiments.texts.config import DataConfig
from experiments.texts.mixing import mixed

SIZES = {"prose": 80, "code": 20}
TEXTS = [
    TextSample(f"{domain} {n}", domain, f"{domain}:{n}")
    for domain, size in SIZES.items()
    for n in range(size)
]
DOMAINS = [sample.domain for sample in TEXTS]


@pytest.mark.parametrize(
    ("weights", "temperature", "counts"),
    [
        ({}, 1.0, {"prose": 80, "code": 20}),
        ({"code": 2.0}, 1.0, {"prose": 80, "code": 40}),
        ({"prose": 0.5}, 1.0, {"prose": 80, "code": 40}),
        ({"code": 0.5}, 1.0, {"prose": 160, "code": 20}),
        ({}, 2.0, {"prose": 80, "code": 40}),  # sqrt(80) : sqrt(20) = 2 : 1
        ({}, math.inf, {"prose": 80, "code": 80}),
        ({"prose": 3.0, "code": 7.0}, math.inf, {"prose": 80, "code": 187}),
    ],
)
def test_shares_follow_weights_and_sizes(weights, temperature, counts):
    places, notes = mixed(DOMAINS, weights, temperature, seed=3)
    out = [TEXTS[place] for place in places]
    assert Counter(sample.domain for sample in out) == counts
    assert set(out) == set(TEXTS)
    often = Counter(sample.id for sample in out if sample.domain == "code")
    assert max(often.values()) - min(often.values()) <= 1
    assert bool(notes) == (counts != SIZES)
    assert mixed(DOMAINS, weights, temperature, seed=3)[0] == places


def test_domains_without_text_are_named_and_settings_checked():
    with pytest.raises(InputError, match=r"'news'; valid are prose, code"):
        mixed(DOMAINS, {"news": 2.0}, 1.0, seed=0)
    for wrong in ({"mix": {"code": 0}}, {"mix_temperature": 0.5}):
        with pytest.raises(ValueError, match=r"data\.mix"):
            DataConfig(**wrong)
