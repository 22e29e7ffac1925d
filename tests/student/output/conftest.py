"""Real tokenizers and texts, as the tests of align use them."""

from tests.align.conftest import load, real_texts

__all__ = ["load", "real_texts"]
