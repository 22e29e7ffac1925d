"""Commented configs to copy and change, which ``mtkd recipes`` shows."""
