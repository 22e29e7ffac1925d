"""Optimal transport between next tokens, and between sequences."""
