"""Everything that the evidence page tells, measured again by one command."""
