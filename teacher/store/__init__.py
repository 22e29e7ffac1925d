"""Keys and values on disk, in shards that are whole or absent."""

from teacher.store.manifest import Encoding, Manifest, Plan, StoreError
from teacher.store.reader import KVStore
from teacher.store.simple import load_kvs, save_kvs
from teacher.store.writer import StoreWriter, open_store

__all__ = [
    "Encoding",
    "KVStore",
    "Manifest",
    "Plan",
    "StoreError",
    "StoreWriter",
    "load_kvs",
    "open_store",
    "save_kvs",
]
