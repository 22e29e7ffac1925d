"""Measure models beside each other, from a command."""
