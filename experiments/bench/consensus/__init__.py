"""Whether teachers' keys and values share what a student should learn of them."""
