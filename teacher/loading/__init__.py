"""Models and tokenizers, from a folder, a hub name or the zoo."""
