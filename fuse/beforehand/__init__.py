"""Which teachers are asked about a text, decided before any of them reads it."""
