"""A testbed in which every domain has a teacher, and none knows two."""
