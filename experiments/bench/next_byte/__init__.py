"""Whether a teacher says in bytes what it says in tokens."""
