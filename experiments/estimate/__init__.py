"""What extraction and training will need, said before anything runs."""
