"""Routers that go by scores of teachers, one weight for all text, and who is chosen."""
