"""What models conclude: objectives on next-token distributions, from tensors."""

from student.output.chunks import Chunks, ChunkTokens, shared_chunks
from student.output.likelihood import chunk_likelihood, label_log_probs

__all__ = [
    "Chunks",
    "ChunkTokens",
    "chunk_likelihood",
    "label_log_probs",
    "shared_chunks",
]
