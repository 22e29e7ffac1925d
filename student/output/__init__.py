"""What models conclude: objectives on next-token distributions, from tensors."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from align.tokens.spelling import token_bytes
    from student.output.across.chunks import (
        Chunks,
        ChunkTokens,
        CommonChunks,
        common_chunks,
        shared_chunks,
    )
    from student.output.across.lexicon import (
        Chains,
        Lexicon,
        Vocabulary,
        chains_of,
        projected_divergence,
    )
    from student.output.across.likelihood import chunk_likelihood
    from student.output.across.pooling import pool_head, pool_logits
    from student.output.across.vocabulary import (
        CommonPieces,
        Spelling,
        byte_vectors,
        common_pieces,
    )
    from student.output.divergence.labels import Labels
    from student.output.divergence.linear_blocks import linear_blocks
    from student.output.divergence.linear_divergence import HeadInput, linear_divergence
    from student.output.divergence.linear_likelihood import linear_log_likelihood
    from student.output.divergence.row_divergence import Divergence
    from student.output.divergence.support import Support, support_beside
    from student.output.divergence.top_tokens import (
        TopTokens,
        linear_top_tokens,
        support_sizes,
        top_tokens,
    )
    from student.output.transport.geometry import Geometry, logit_geometry
    from student.output.transport.sequence import sequence_transport
    from student.output.transport.solver import TransportSettings, transport_cost
    from student.output.transport.token import (
        TransportLoss,
        hybrid,
        in_student_space,
        token_transport,
    )
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "Chains",
    "CommonPieces",
    "Spelling",
    "Lexicon",
    "Vocabulary",
    "chains_of",
    "linear_blocks",
    "projected_divergence",
    "byte_vectors",
    "common_pieces",
    "pool_head",
    "pool_logits",
    "token_bytes",
    "Chunks",
    "ChunkTokens",
    "CommonChunks",
    "common_chunks",
    "chunk_likelihood",
    "shared_chunks",
    "Divergence",
    "HeadInput",
    "Labels",
    "Support",
    "linear_divergence",
    "linear_log_likelihood",
    "Geometry",
    "TopTokens",
    "TransportLoss",
    "TransportSettings",
    "hybrid",
    "in_student_space",
    "linear_top_tokens",
    "logit_geometry",
    "sequence_transport",
    "support_beside",
    "support_sizes",
    "token_transport",
    "top_tokens",
    "transport_cost",
]
