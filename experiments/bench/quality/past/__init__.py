"""What a student learns from its own past, from its average, and beside another."""
