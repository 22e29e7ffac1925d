"""The command that trains many runs of one config."""
