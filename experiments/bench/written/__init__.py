"""What it costs that a student writes what it learns from."""
