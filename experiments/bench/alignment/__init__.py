"""What tokenising and aligning cost beside tokenising alone."""
