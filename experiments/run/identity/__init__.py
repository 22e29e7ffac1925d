"""Who taught a run's students."""
