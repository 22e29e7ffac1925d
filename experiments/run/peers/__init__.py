"""Students that learn beside the run's own: what they learn, and their steps."""
