"""What teachers that come from the student cost."""
