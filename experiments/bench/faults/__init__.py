"""Kill runs at random moments, damage every file; nothing may be lost in silence."""
