"""Bring teachers' keys and values to a student: in time, depth, width and position."""

from typing import TYPE_CHECKING

import align.doors.moved  # noqa: F401  (answers for earlier names of modules)
from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from align.calibration import (
        CalibrationStats,
        calibrate_pca,
        calibrate_procrustes,
        calibrate_ridge,
        r_squared,
        variance_kept,
    )
    from align.causality import check_causal
    from align.head_dim_adapter import MultiTeacherHeadDimAdapter
    from align.kv import KV
    from align.layer_map import (
        LayerMap,
        build_multi_teacher_layer_map,
        interpolate_teacher_layers,
    )
    from align.layer_similarity import (
        LayerSimilarity,
        SimilarLayers,
        similarity_layer_map,
    )
    from align.pictures.similarity import visualize_layer_similarity
    from align.pictures.visualize import visualize_alignment, visualize_layer_mapping
    from align.rope_scale import (
        MultiTeacherRoPEScaler,
        inverse_frequencies,
        rotary_table,
        rotate,
        scaled_base,
    )
    from align.text.chat import render_chat
    from align.text.documents import TextSample, chunk_samples, read_texts
    from align.time_align import (
        Alignment,
        align_sequence_lengths,
        apply_char_alignment,
    )
    from align.tokenizer_align import (
        CausalCharIoUAligner,
        CharIoUAligner,
        ChunkEndAligner,
        LastTokenAligner,
        build_char_align_matrix,
        char_iou,
    )
    from align.tokens.batch import TokenBatch, encode_batch, encode_chats
    from align.tokens.byte_lengths import ByteLengths
    from align.tokens.lost_text import LostText, lost_text
    from align.views import TeacherView
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "ByteLengths",
    "CalibrationStats",
    "CausalCharIoUAligner",
    "CharIoUAligner",
    "ChunkEndAligner",
    "KV",
    "TeacherView",
    "Alignment",
    "LastTokenAligner",
    "LayerMap",
    "LayerSimilarity",
    "LostText",
    "MultiTeacherHeadDimAdapter",
    "MultiTeacherRoPEScaler",
    "TextSample",
    "TokenBatch",
    "align_sequence_lengths",
    "apply_char_alignment",
    "build_char_align_matrix",
    "build_multi_teacher_layer_map",
    "calibrate_pca",
    "calibrate_procrustes",
    "calibrate_ridge",
    "char_iou",
    "check_causal",
    "chunk_samples",
    "encode_batch",
    "encode_chats",
    "interpolate_teacher_layers",
    "inverse_frequencies",
    "lost_text",
    "r_squared",
    "read_texts",
    "render_chat",
    "rotary_table",
    "rotate",
    "scaled_base",
    "SimilarLayers",
    "similarity_layer_map",
    "variance_kept",
    "visualize_alignment",
    "visualize_layer_mapping",
    "visualize_layer_similarity",
]
