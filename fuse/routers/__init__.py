"""Routers, from what is known of a text to weights over teachers, and who is chosen."""
