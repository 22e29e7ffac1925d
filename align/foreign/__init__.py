"""What comes from somebody else: names and paths, before they are used."""
