"""Kill a five-phase run of two processes at random moments; nothing may be lost."""
