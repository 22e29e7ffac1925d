"""Teachers that are chosen text by text, before any of them reads."""
