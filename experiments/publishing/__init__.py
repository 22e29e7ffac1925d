"""Hand a run's student on: its card, the evidence beside it, and the way to the hub."""
