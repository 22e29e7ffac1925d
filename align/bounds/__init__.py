"""How large, deep and long a file of someone else's may be, seen before it is used."""
