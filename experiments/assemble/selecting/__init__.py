"""Selectors of a phase, from its settings."""
