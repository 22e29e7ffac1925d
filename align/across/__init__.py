"""Models that read different texts: a sentence, and its translation."""
