"""Which of several teachers are worth asking, from one pass over held-out text."""
