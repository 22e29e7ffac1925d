"""Keys and values on disk, in shards that are whole or absent."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from teacher.store.manifest import Encoding, Manifest, Plan, StoreError
    from teacher.store.reader import KVStore
    from teacher.store.simple import load_kvs, save_kvs
    from teacher.store.writer import StoreWriter, open_store
else:
    __getattr__, __dir__ = lazy_names(__name__)

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
