"""Keys, values and what else a model's forward pass gives away."""

from teacher.capture.kv_capture import (
    KVCapture,
)

__all__ = [
    "KVCapture",
]
