"""What a step costs whose teachers' outputs come from a store."""
