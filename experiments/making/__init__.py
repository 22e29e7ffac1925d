"""Students that are made of larger models: chosen, written, kept with a manifest."""
