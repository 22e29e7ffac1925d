"""Arms of the zoo's testbed, a file for each question."""
