"""Who among teachers foretells the texts that a session measures by."""

from types import SimpleNamespace

import pytest

from align.text.documents import TextSample
from align.text.prompted import Prompted
from experiments.measuring.session import unable

PAIR = TextSample(Prompted("A dog =>", " Ein Hund"), "pairs", "1")
PLAIN = TextSample("A dog", "news", "2")


@pytest.mark.parametrize(
    ("kind", "samples", "why"),
    [
        ("decoder", [PLAIN, PAIR], ""),
        ("encoder", [PAIR], "predicts no next token"),
        ("encoder-decoder", [PAIR, PAIR], ""),
        ("encoder-decoder", [PAIR, PLAIN], "these texts are no pairs"),
    ],
)
def test_an_encoder_decoder_foretells_pairs_alone(kind, samples, why):
    told = unable(SimpleNamespace(kind=kind), samples)
    assert why in told and bool(told) == bool(why)
