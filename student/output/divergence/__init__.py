"""Distances between next-token distributions over one vocabulary."""
