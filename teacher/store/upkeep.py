"""Look after stores on disk: find what is wrong, take it out, say what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from align.errors import MissingFileError
from align.foreign.inside import refuse_links_out
from teacher.store.manifest import (
    MANIFEST,
    PLAN,
    FileRecord,
    Manifest,
    Plan,
    ShardRecord,
    StoreError,
    digest_of,
    read_sealed,
)
from teacher.store.records import (
    check_file,
    check_size,
    file_record,
    read_record,
    record_name,
)
from teacher.store.writer import StoreWriter


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written."""

    file: Path
    what: str
    shard: int | None = None
    """The shard it costs; None where it costs none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a store holds."""

    plan: Plan
    finished: int
    """Shards that are there."""
    shards: int
    merged: bool
    """Whether the manifest is written."""
    samples: int
    skipped: int
    tokens: int
    data_bytes: int

    @property
    def bytes_per_token(self) -> float:
        """On disk, everything counted; 0 without tokens."""
        return self.data_bytes / self.tokens if self.tokens else 0.0


def stores_in(path: Path) -> list[Path]:
    """The store at a path, or the stores in a folder of stores.

    Raises:
        FileNotFoundError: there is none.
        OutsideError: a link in the folder leads out of it.
    """
    refuse_links_out(path)
    marks = (PLAN, MANIFEST, record_name(0))
    if any((path / mark).is_file() for mark in marks):
        return [path]
    stores = {p.parent for mark in marks for p in path.glob(f"*/{mark}")}
    if not stores:
        raise MissingFileError(
            f"no KV store at {path}; give a folder that `mtkd extract` wrote"
        )
    return sorted(stores)


def verify(path: Path) -> list[Fault]:
    """Recompute every digest of a store and look for what does not belong there.

    Returns:
        All faults; empty for a whole store.

    Raises:
        OutsideError: a name or a link in it leads out of the folder: no damage, and
            nothing to repair.
    """
    refuse_links_out(path)
    try:
        plan = read_sealed(path / PLAN, Plan)
    except FileNotFoundError:
        return [Fault(path / PLAN, f"{path / PLAN}: the plan is missing")]
    except StoreError as error:
        return [Fault(path / PLAN, str(error))]
    faults = list(_check_constants(path, plan))
    merged = None
    if (path / MANIFEST).is_file():
        try:
            merged = read_sealed(path / MANIFEST, Manifest)
        except StoreError as error:
            faults.append(Fault(path / MANIFEST, str(error)))
    digest = digest_of(plan)
    records: dict[int, ShardRecord] = {}
    for number in _numbers(path, plan, merged):
        faults += _check_shard(path, number, digest, records)
    if merged is not None:
        faults += _check_manifest(path, merged, records)
    return faults + list(_strangers(path, plan, records))


def merge(path: Path) -> Manifest:
    """Write the manifest of a store whose shards are all there.

    Raises:
        StoreError: shards are missing or damaged; names them.
    """
    faults = [fault for fault in verify(path) if fault.shard is not None]
    if faults:
        listed = "; ".join(fault.what for fault in faults[:3])
        raise StoreError(f"{path} is not merged: {listed}")
    return StoreWriter(path, read_sealed(path / PLAN, Plan)).finish()


def take_out(path: Path, faults: list[Fault]) -> list[int]:
    """Remove what is damaged, so that extracting again makes just that anew.

    Args:
        path: the store.
        faults: from :func:`verify`.

    Returns:
        Shards that are to be made again.
    """
    if not faults:
        return []
    refuse_links_out(path)
    (path / MANIFEST).unlink(missing_ok=True)
    for fault in faults:
        fault.file.unlink(missing_ok=True)
    broken = sorted({fault.shard for fault in faults if fault.shard is not None})
    for number in broken:
        (path / record_name(number)).unlink(missing_ok=True)
        for data in path.glob(f"kv-{number:05d}-*.safetensors"):
            data.unlink()
    return broken


def summarize(path: Path) -> Summary:
    """Read what a store says of itself, without reading its data.

    Raises:
        StoreError: plan or a record is damaged, or data are missing or cut off.
        OutsideError: a name or a link in it leads out of the folder.
    """
    refuse_links_out(path)
    plan = read_sealed(path / PLAN, Plan)
    merged = (path / MANIFEST).is_file()
    manifest = read_sealed(path / MANIFEST, Manifest) if merged else None
    digest = digest_of(plan)
    numbers = _numbers(path, plan, manifest)
    shard_records = [read_record(path, number, digest) for number in numbers]
    records = [record for record in shard_records if record is not None]
    for record in records:
        check_size(path, record.data, record_name(record.number))
    if plan.constants is not None:
        check_size(path, plan.constants, PLAN)
    samples = [sample for record in records for sample in record.samples]
    return Summary(
        plan=plan,
        finished=len(records),
        shards=len(shard_records),
        merged=merged,
        samples=len(samples),
        skipped=sum(sample.skipped is not None for sample in samples),
        tokens=sum(record.tokens for record in records),
        data_bytes=sum(
            f.stat().st_size for f in path.iterdir() if not f.name.startswith(".")
        ),
    )


def _numbers(path: Path, plan: Plan, merged: Manifest | None) -> range:
    if plan.shard_samples is not None:
        return range(plan.shards)
    if merged is not None:
        return range(len(merged.records))
    return range(len(list(path.glob("kv-?????.json"))))


def _check_constants(path: Path, plan: Plan) -> Iterator[Fault]:
    if plan.constants is None:
        return
    try:
        check_file(path, plan.constants, PLAN)
    except StoreError as error:
        # The plan vouches for them: both are made again from the same settings.
        yield Fault(plan.constants.path_in(path, PLAN), str(error))
        yield Fault(path / PLAN, f"{path / PLAN}: its constants are damaged")


def _check_shard(
    path: Path, number: int, digest: str, records: dict[int, ShardRecord]
) -> Iterator[Fault]:
    file = path / record_name(number)
    try:
        record = read_record(path, number, digest)
    except StoreError as error:
        yield Fault(file, str(error), number)
        return
    if record is None:
        yield Fault(file, f"{file}: shard {number} is missing", number)
        return
    records[number] = record
    data = record.data.path_in(path, record_name(number))
    try:
        check_file(path, record.data, record_name(number))
        with safe_open(data, framework="pt"):
            pass
    except (StoreError, SafetensorError) as error:
        yield Fault(data, f"shard {number}: {error}", number)


def _check_manifest(
    path: Path, merged: Manifest, records: dict[int, ShardRecord]
) -> Iterator[Fault]:
    """The manifest is only an index: what it vouches for was checked by itself."""
    file = path / MANIFEST
    if merged.plan != file_record(path / PLAN):
        yield Fault(file, f"{file} vouches for another plan")
    data: list[FileRecord] = [records[n].data for n in sorted(records)]
    record_files = [file_record(path / record_name(n)) for n in sorted(records)]
    if merged.data != data or merged.records != record_files:
        yield Fault(file, f"{file} vouches for other shards than are here")


def _strangers(
    path: Path, plan: Plan, records: dict[int, ShardRecord]
) -> Iterator[Fault]:
    """Files that could be taken for ours; others are never read and left alone."""
    our_names = {record_name(number) for number in _numbers(path, plan, None)}
    our_names |= {record.data.file for record in records.values()}
    our_names |= {plan.constants.file} if plan.constants else set()
    for pattern in ("kv-*", "constants-*"):
        for file in sorted(path.glob(pattern)):
            if file.name not in our_names:
                yield Fault(file, f"{file} does not belong to this store")
