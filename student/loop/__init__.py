"""The loop of one phase: batches, engine, checkpoints."""
