"""Turn text into the keys and values of frozen teachers."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from teacher.capture.kv_capture import KVCapture
    from teacher.extract_teacher_kv import TeacherKVExtractor
    from teacher.loading.models import LoadedModel, load_model
    from teacher.own_loss import next_token_nll, teacher_bits_per_char
    from teacher.router_proto import (
        compute_multi_teacher_prototypes,
        compute_routing_weights,
    )
    from teacher.store import KVStore, load_kvs, save_kvs
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "KVCapture",
    "KVStore",
    "LoadedModel",
    "TeacherKVExtractor",
    "compute_multi_teacher_prototypes",
    "compute_routing_weights",
    "load_kvs",
    "load_model",
    "next_token_nll",
    "save_kvs",
    "teacher_bits_per_char",
]
