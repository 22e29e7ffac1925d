"""Pretrained models that lie in Python packages, and which of them are here."""
