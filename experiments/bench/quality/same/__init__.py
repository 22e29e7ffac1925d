"""A testbed in which no teacher has read more than the student."""
