"""Settings that somebody gave, and that change nothing in the run they stand in."""
