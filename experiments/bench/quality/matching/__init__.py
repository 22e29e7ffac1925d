"""More text than the student has, unlabelled or written, and teachers' words on it."""
