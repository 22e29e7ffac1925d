"""A run: its arms and their phases, measured and gated."""
