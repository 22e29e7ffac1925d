"""What a report is made of, and the two ways in which it is written."""
