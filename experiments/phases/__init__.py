"""The built-in phases, as YAML; ``experiments.presets`` offers them."""
