"""Pictures of alignments, layer maps and layers' similarity."""
