"""What made and rounded students lose, win back and cost."""
