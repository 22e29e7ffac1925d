"""What a run came to: page, pictures, tables."""
