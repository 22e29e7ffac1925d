"""Evaluators in use: chosen by name, asked, and what they found as plain data."""
