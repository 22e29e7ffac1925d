"""Commands that hand a run's student on."""
