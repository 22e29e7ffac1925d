"""Turn text into the keys and values of frozen teachers."""

from teacher.capture import KVCapture

__all__ = ["KVCapture"]
