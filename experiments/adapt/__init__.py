"""A model trained in the vocabulary of another, as one more run."""
