"""What students write: a prompt continued, before and after, or in a talk."""
