"""Give a model the vocabulary of another."""
