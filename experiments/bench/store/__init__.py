"""What storing teachers costs beside computing, and beside plain files."""
