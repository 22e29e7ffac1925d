"""Turn text into the keys and values of frozen teachers."""

from teacher.capture import Captured, KVCapture
from teacher.recording import Injection

__all__ = ["Captured", "Injection", "KVCapture"]
