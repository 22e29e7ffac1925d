"""Teachers on processes of their own, which answer those that train."""
