"""What weighing teachers could gain, read off held-out text before any training."""
