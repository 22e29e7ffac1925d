"""Sections of settings of the loop."""
