"""Commands by which models write: ``generate``, ``chat`` and ``write``."""
