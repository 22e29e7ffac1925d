"""The commands of ``mtkd``, each with its parser and its action."""
