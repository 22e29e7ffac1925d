"""A few tiny but real teachers and a student, made from what CPython carries."""

from teacher.zoo.build import build_zoo, zoo_path
from teacher.zoo.listing import ZooEntry, list_zoo, zoo_table
from teacher.zoo.recipes import SCALES, ZooModel, recipes
from teacher.zoo.text import DOMAINS, SPLITS, zoo_documents, zoo_samples

__all__ = [
    "DOMAINS",
    "SCALES",
    "SPLITS",
    "ZooEntry",
    "ZooModel",
    "build_zoo",
    "list_zoo",
    "recipes",
    "zoo_documents",
    "zoo_path",
    "zoo_samples",
    "zoo_table",
]
