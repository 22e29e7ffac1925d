"""A run tried out before it begins, with nothing written: ``mtkd train --dry-run``."""
