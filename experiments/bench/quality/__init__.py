"""Whether several teachers' keys and values make a better student, arm by arm."""
