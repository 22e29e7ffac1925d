"""The built-in terms of the loss, and their settings."""

from student.terms.key_value import (
    BUILT_IN,
    NEXT_TOKEN,
    OBJECTIVES,
    attention_kl,
    ce,
    chosen_terms,
    cosine,
    kv_k,
    kv_v,
    relation_k,
    relation_v,
    short_form,
    term_weights,
)

__all__ = [
    "BUILT_IN",
    "NEXT_TOKEN",
    "OBJECTIVES",
    "attention_kl",
    "ce",
    "chosen_terms",
    "cosine",
    "kv_k",
    "kv_v",
    "relation_k",
    "relation_v",
    "short_form",
    "term_weights",
]
