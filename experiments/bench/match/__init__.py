"""Costs of the term match."""
