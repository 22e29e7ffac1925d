"""Keys and values on disk, in shards that are whole or absent."""

from teacher.store.simple import KVStore, Manifest, load_kvs, save_kvs

__all__ = ["KVStore", "Manifest", "load_kvs", "save_kvs"]
