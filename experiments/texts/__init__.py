"""What a run's texts are made of, and how they are told of."""
