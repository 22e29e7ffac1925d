"""Packaged configs, which ``mtkd train`` takes by name."""
