"""Write a store shard by shard, from any number of processes on any nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from teacher.store.files import PART, beside, put
from teacher.store.manifest import (
    CONSTANTS,
    MANIFEST,
    PLAN,
    PLUGINS,
    FileRecord,
    Manifest,
    Plan,
    Sample,
    ShardRecord,
    StoreError,
    differences,
    digest_of,
    read_sealed,
    write_sealed,
)
from teacher.store.packing import (
    EncodedSample,
    StoredSample,
    encode_sample,
    pack,
)
from teacher.store.records import (
    Constants,
    check_size,
    codecs_of,
    file_record,
    read_constants,
    read_record,
    record_name,
    sample_bytes,
    shard_ranges,
)
from teacher.store.tensor_files import write_tensors


class StoreWriter:
    """Adds shards to one store."""

    def __init__(self, path: Path, plan: Plan) -> None:
        """Open a store whose plan is written; see :func:`open_store`."""
        self.path, self.plan = path, plan
        self.constants = read_constants(path, plan)
        self.codecs = codecs_of(plan, self.constants)
        self._plan_digest = digest_of(plan)

    def record(self, number: int) -> ShardRecord | None:
        """The record of a finished shard, None of one that is not.

        Raises:
            StoreError: the record is damaged or of another plan, or the shard that it
                is of is not there, or cut off.
        """
        record = read_record(self.path, number, self._plan_digest)
        if record is not None:
            check_size(self.path, record.data, record_name(number))
        return record

    def missing(self) -> list[int]:
        """Shards that are still to be made; the store must know their number."""
        return [n for n in range(self.plan.shards) if self.record(n) is None]

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Keep a shard from being made twice at once.

        The lock only saves work: linking the record decides who wins, and does so alone
        where a file system has no locks.

        Yields:
            Whether the shard is ours to make: not finished, and nobody else's.
        """
        from filelock import FileLock, Timeout

        # Not bound to a thread: the one that writes lets go of what another claimed.
        name = str(self.path / f".{record_name(number)}.lock")
        lock = FileLock(name, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except (NotImplementedError, OSError):
            yield self.record(number) is None
            return
        try:
            if self.record(number) is None:
                for part in self.path.glob(f".kv-{number:05d}*{PART}"):
                    part.unlink(missing_ok=True)
                yield True
            else:
                yield False
        finally:
            lock.release()

    def encode(self, sample: StoredSample) -> EncodedSample:
        """Encode a sample for :meth:`write`."""
        return encode_sample(self.codecs, sample)

    def write(
        self,
        number: int,
        first: int,
        samples: Sequence[tuple[Sample, EncodedSample]],
    ) -> bool:
        """Write one shard; it appears whole or not at all.

        Args:
            number: of the shard.
            first: number of its first sample.
            samples: at least one.

        Returns:
            Whether it is our shard that counts; another process may have been first.

        Raises:
            NoRoomError: it did not fit; nothing of it is left.
        """
        try:
            return self._write(number, first, samples)
        except FileNotFoundError:
            # Somebody made the same shard, and the whole store, and cleared up.
            if self.record(number) is None:
                raise
            return False

    def _write(
        self,
        number: int,
        first: int,
        samples: Sequence[tuple[Sample, EncodedSample]],
    ) -> bool:
        tensors = pack([x for _, x in samples], self.codecs, self.plan.encoding.zstd)
        needed = sum(piece.nbytes for pieces in tensors.values() for piece in pieces)
        stem = self.path / f"kv-{number:05d}"
        with beside(stem, needed) as part:
            size, digest = write_tensors(part, tensors)
            data = self.path / f"{stem.name}-{digest[:8]}.safetensors"
            put(part, data)  # a file of that name has these very bytes
        record = ShardRecord(
            number=number,
            first=first,
            plan=self._plan_digest,
            data=FileRecord(file=data.name, size=size, sha256=digest),
            samples=[sample for sample, _ in samples],
        )
        if write_sealed(self.path / record_name(number), record):
            return True
        winner = self.record(number)
        if winner is not None and winner.data.file != data.name:
            data.unlink(missing_ok=True)
        return False

    def sample_bytes(self, tokens: int) -> int:
        """Bytes of one sample before lossless compression, without headers."""
        return sample_bytes(self.codecs, self.plan.shape.layers, tokens)

    def finish(self, count: int | None = None) -> Manifest:
        """Write the manifest, once every shard is there, and clear up.

        Args:
            count: shards; None takes the plan's number.

        Raises:
            StoreError: shards are missing; names them.
        """
        total = self.plan.shards if count is None else count
        records = [self.record(number) for number in range(total)]
        missing = [n for n, record in enumerate(records) if record is None]
        if missing:
            raise StoreError(
                f"{self.path} lacks {len(missing)} of {total} shards: "
                f"{shard_ranges(missing)}; run the same `mtkd extract` again, which "
                "makes only these"
            )
        whole_records = [record for record in records if record is not None]
        manifest = Manifest(
            plan=file_record(self.path / PLAN),
            records=[file_record(self.path / record_name(n)) for n in range(total)],
            data=[record.data for record in whole_records],
            samples=sum(len(record.samples) for record in whole_records),
            tokens=sum(record.tokens for record in whole_records),
        )
        file = self.path / MANIFEST
        try:
            write_sealed(file, manifest, replace=True)
        except FileNotFoundError:
            # Another task has just finished the store, and cleared our part away.
            if not file.is_file() or read_sealed(file, Manifest) != manifest:
                raise
        _clear_up(self.path, manifest)
        return manifest


def open_store(
    path: Path, plan: Plan, constants: Constants | None = None
) -> StoreWriter:
    """Begin a store, or go on with one that has the same plan.

    Args:
        path: its folder.
        plan: what it shall hold, without the record of its constants.
        constants: what all shards are made with; ignored where the store has its own.

    Raises:
        StoreError: a store with another plan stands there; names every difference.
        NoRoomError: no room.
    """
    file = path / PLAN
    if not file.is_file():
        path.mkdir(parents=True, exist_ok=True)
        record = _write_constants(path, constants) if constants else None
        sealed_plan = plan.model_copy(update={"constants": record})
        if write_sealed(file, sealed_plan):
            return StoreWriter(path, sealed_plan)
    stored = read_sealed(file, Plan)
    check_plan(path, stored, plan)
    return StoreWriter(path, stored)


def check_plan(path: Path, stored: Plan, requested: Plan) -> None:
    """Refuse to mix two extractions.

    Raises:
        StoreError: the plans differ; names every field.
    """
    loose = {"constants", "facts"}
    stored_fields, requested_fields = (
        _named_fingerprint(plan.model_dump(mode="json", exclude=loose))
        for plan in (stored, requested)
    )
    if PLUGINS not in stored_fields:
        # of a version that did not keep it, or all built in
        requested_fields.pop(PLUGINS, None)
    changed = differences(stored_fields, requested_fields)
    if changed:
        raise StoreError(
            f"{path} was extracted otherwise: {'; '.join(changed)}. Restore these "
            "settings, or give another store.name; a store never holds a mixture"
        )


def _named_fingerprint(plan: dict[str, object]) -> dict[str, object]:
    """Put the fingerprint's fields beside the plan's own."""
    fingerprint = plan.pop("fingerprint")
    assert isinstance(fingerprint, dict)
    return plan | fingerprint


def _write_constants(path: Path, constants: Constants) -> FileRecord:
    tensors = {name: [tensor] for name, tensor in constants.items()}
    needed = sum(tensor.nbytes for tensor in constants.values())
    stem = path / CONSTANTS.removesuffix(".safetensors")
    with beside(stem, needed) as part:
        size, digest = write_tensors(part, tensors)
        file = path / f"{stem.name}-{digest[:8]}.safetensors"
        put(part, file)
    return FileRecord(file=file.name, size=size, sha256=digest)


def _clear_up(path: Path, manifest: Manifest) -> None:
    """Remove what dead processes left: parts, locks, data that no record names."""
    data_files = {record.file for record in manifest.data}
    for file in path.iterdir():
        leftover = file.name.endswith((PART, ".lock")) and file.name.startswith(".")
        orphan = file.match("kv-*-????????.safetensors") and file.name not in data_files
        if leftover or orphan:
            file.unlink(missing_ok=True)
