"""What teachers on ranks of their own cost and spare."""
