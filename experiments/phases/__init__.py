"""The built-in phases, as YAML; ``experiments.config.presets`` offers them."""
