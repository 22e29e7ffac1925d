"""What evaluators say of a run's students and teachers, and what decides by it."""
