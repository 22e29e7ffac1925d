"""Plugins that begin well."""

WORD = "pastries"
"""In the texts of small runs, in none of a contract's."""


def after(calls, good, bad, by_text=False):
    """A factory whose object turns bad after some calls, or at a text with ``WORD``."""

    class Turns:
        def __init__(self):
            self._good, self._bad, self._calls = good(), bad(), 0

        def __getattr__(self, name):
            return getattr(self._good, name)

        def __call__(self, first, *rest):
            self._calls += 1
            texts = getattr(first, "texts", None) or getattr(
                getattr(first, "batch", None), "texts", ()
            )
            seen = by_text and any(WORD in text for text in texts)
            late = seen or self._calls > calls
            return (self._bad if late else self._good)(first, *rest)

    return Turns
