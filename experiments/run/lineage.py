"""What a phase was trained with, so that a corrected run keeps what still holds.

A run may be changed and continued: what is finished stays as long as nothing that
it depends on has changed, its own settings and those of the phases before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.foreign.marker import MARKER
from align.text.documents import TextSample
from align.text.prompted import Beside, Prompted
from align.tokens.answered import learned_part
from experiments.assemble.fingerprint import code_of_model, file_digests
from experiments.config.later import LATER, since_ever, with_effect
from experiments.config.parsing import ConfigError, plain
from experiments.config.used_plugins import (
    Records,
    changed_code,
    curricula_used,
    names_used,
    records_of,
    writers_used,
)
from experiments.making.made import makers_used
from experiments.record.history import IDENTITY, SETTINGS, read_json, write_json
from experiments.run.identity.taught import compared, facts_of
from experiments.sources.named import sources_used
from student.checkpoint import steps_kept
from student.curriculum.choice import chosen_curriculum
from student.output_config import OUTPUT_TERMS
from student.terms.key_value import chosen_terms
from teacher.store.manifest import brief

if TYPE_CHECKING:
    from experiments.assemble.data import RunData
    from experiments.assemble.models import Models
    from experiments.config.tree import Config, PhaseConfig
    from experiments.run.context import RunContext, Stage
    from plugins.registry import Registry
    from teacher.sources.base import PhaseStart

HELD_OUT = "held_out"
"""Of a run's identity: the digest of the text that its students are measured on."""
FILES = "files"
"""Of a record: digests of the files of the models that were read, by name."""
STUDENT = "student"
"""What the model is called among these that the run's student begins as."""
PLUGINS = "plugins"
"""Of a record: whose code strangers' names in use are."""


def record_of(
    config: Config,
    stages: Sequence[Stage],
    texts: Mapping[str, str],
    registry: Registry | None = None,
    files: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Everything that the last of these stages depends on.

    ``data.overlap`` is not in it, since what it does shows in the texts, nor
    ``data.hold``, which changes none.

    Args:
        config: the run's.
        stages: an arm's phases up to the one in question.
        texts: digests of what is read, see :func:`text_digests`.
        registry: says whose code is used; None leaves that out.
        files: see :func:`digests_of_models`; None leaves that out.
    """
    phases = {}
    curriculum = chosen_curriculum(config.data.curriculum)
    settings = since_ever(config.data).items()
    data = {key: value for key, value in settings if key not in ("overlap", "hold")}
    if curriculum is not None:
        data["curriculum"] = curriculum.plain()
    for index, stage in enumerate(stages):
        phases[f"{index + 1}-{stage.phase.name}"] = {
            "teachers": {
                name: with_effect(config.teachers[name])
                for name in stage.teachers
                if name in config.teachers
            },
            "align": plain(stage.phase.align),
            "fuse": plain(stage.phase.fuse),
            "loss": since_ever(stage.phase.loss),
            "train": with_effect(stage.phase.train),
        }
        if stage.phase.transform:
            phases[f"{index + 1}-{stage.phase.name}"]["transform"] = plain(
                stage.phase.transform
            )
        if stage.phase.begins != "last":
            phases[f"{index + 1}-{stage.phase.name}"]["begins"] = stage.phase.begins
        if curriculum is not None and curriculum.rescore is True:
            every = stage.phase.train.checkpoint_every
            phases[f"{index + 1}-{stage.phase.name}"]["rescored_every"] = every
        terms = chosen_terms(stage.phase.loss, stage.phase.output).values()
        if any(term.kind in OUTPUT_TERMS for term in terms):
            # runs from before there were any go on
            phases[f"{index + 1}-{stage.phase.name}"]["output"] = since_ever(
                stage.phase.output
            )
    used = _plugins_of(config, registry, stages) if registry else {}
    read = {STUDENT, *(name for stage in stages for name in stage.teachers)}
    return {
        "seed": config.run.seed,
        "student": with_effect(replace(config.student, transform={})),  # phases say it
        "data": data,
        "texts": dict(texts),
        "rope_scaling_method": config.align.rope_scaling_method,
        "store": plain(config.store) if config.store.read else None,
        "phases": phases,
        **({PLUGINS: dict(used)} if used else {}),
        **({FILES: {n: dict(files[n]) for n in files if n in read}} if files else {}),
    }


def plugins_of_run(
    config: Config,
    registry: Registry,
    phases: Iterable[PhaseConfig],
    teachers: Iterable[str] | None = None,
) -> Records:
    """Whose code strangers' names in use are, those of teachers' sources and of the
    student's maker included.

    Args:
        config: the run's.
        registry: knows the names.
        phases: that use them.
        teachers: that are asked; None: all.
    """
    used = sources_used(config, registry, teachers)
    used |= makers_used(config) | writers_used(config) | curricula_used(config)
    return records_of(registry, [*names_used(phases), *used])


def _plugins_of(config: Config, registry: Registry, stages: Sequence[Stage]) -> Records:
    asked = [name for stage in stages for name in stage.teachers]
    return plugins_of_run(config, registry, [stage.phase for stage in stages], asked)


def digests_of_models(config: Config, models: Models) -> dict[str, dict[str, str]]:
    """Digest the files of what a run reads: other weights under the same path show.

    Of teachers that a store vouches for it is what the store says.

    Args:
        config: the run's.
        models: as loaded.
    """
    drawn = config.student.init == "fresh"
    digests = {STUDENT: file_digests(config.student.model, weights=not drawn)}
    trusted = config.student.trust_remote_code
    if trusted and (code := code_of_model(config.student.model)):
        digests[STUDENT]["code"] = code
    for name in (*models.live, *models.elsewhere):
        source = models.sources[name]
        read = {} if source.files is None else file_digests(source.files)
        digests[name] = {**read, **source.fingerprint()}
    for name, facts in facts_of(config, models).items():
        digests[name] = {**digests.get(name, {}), **facts}
    return digests


def earlier_files(
    run: RunContext, stage: Stage, start: PhaseStart
) -> dict[str, dict[str, str]]:
    """Digests of the students that teach a phase, by the teachers' names."""
    sources = run.models.sources  # a fused store's teacher has none
    folders = {n: sources[n].reads(start) for n in stage.teachers if n in sources}

    def of_all(paths: Sequence[Path]) -> dict[str, str]:
        if len(paths) == 1:
            return file_digests(str(paths[0]))
        every = [(path.parent.name, file_digests(str(path))) for path in paths]
        return {
            f"{of}/{key}": digest
            for of, files in every
            for key, digest in files.items()
        }

    def digests() -> dict[str, dict[str, str]]:
        return {name: of_all(paths) for name, paths in folders.items() if paths}

    return run.engine.from_main(digests)


def text_digests(data: RunData) -> dict[str, str]:
    """SHA-256 over the texts that are learned from, by what they are for.

    A file whose path stayed and whose content changed shows here. Held-out text is
    left out: it changes no student.
    """
    of_purpose = (("train", data.train), ("calibration", data.calibration))
    return {name: samples_digest(samples) for name, samples in of_purpose}


def samples_digest(samples: Iterable[TextSample]) -> str:
    """SHA-256 over texts, their domains and weights other than 1, in order, and what of
    them is a prompt or is not learned."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.domain}\0{sample.text}\0".encode(errors="replace"))
        if sample.weight != 1:
            digest.update(f"{sample.weight!r}\0".encode())
        if isinstance(sample.text, Prompted):
            digest.update(f"from {sample.text.answer}\0".encode())
        if isinstance(sample.text, Beside):
            beside = sample.text.other, sample.text.links
            digest.update(f"beside {beside}\0".encode(errors="replace"))
        part = learned_part(sample.text)
        if part is not None:
            digest.update(f"parts {part}\0".encode())
    return digest.hexdigest()


def held_out_changed(run_dir: Path, config: Config, digest: str) -> list[str]:
    """A sentence where a run was measured on other text than this.

    Args:
        run_dir: the run's.
        config: says where the text is from.
        digest: of the held-out text now, see :func:`samples_digest`.
    """
    noted = read_json(run_dir / IDENTITY).get(HELD_OUT)
    if noted in (None, digest):
        return []
    files = ", ".join(config.data.eval or [*config.data.train, *config.data.pairs])
    return [
        f"the held-out text of {files} is not what {run_dir} was measured on: do "
        "not compare its numbers with new ones; another run.name measures all anew"
    ]


def record_file(folder: Path) -> Path:
    """Where a phase's record lies: beside its folder, as a checkpoint's does."""
    return folder.with_name(f"{folder.name}{SETTINGS}")


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Note what the phase that will fill ``folder`` is trained with."""
    write_json(record_file(folder), record)


def check_record(
    folder: Path, record: Mapping[str, Any], changed_plugins: bool = False
) -> None:
    """Refuse to build on a phase that was trained with other settings or code.

    Args:
        folder: the phase's; also its checkpoint, if it was stopped half way.
        record: of the config as it is now; what it leaves out is not compared.
        changed_plugins: go on though a plugin's code has changed.

    Raises:
        ConfigError: something differs; names it and what to do.
        InputError: the record is damaged.
    """
    checkpoint = folder.with_name(f"{folder.name}.checkpoint")
    started = [checkpoint] if steps_kept(checkpoint) else []
    kept = [folder, *started] if (folder / MARKER).is_file() else started
    before = read_json(record_file(folder)) if kept else {}
    if not before:
        return
    now = json.loads(json.dumps(record))
    code = changed_code(before.pop(PLUGINS, {}), now.pop(PLUGINS, {}))
    if code and not changed_plugins:
        raise ConfigError(
            f"{kept[0]} was trained with other code: {'; '.join(code)}. Put the "
            "old code back, go on with the new code by --changed-plugins, or choose "
            "another run.name"
        )
    files = before.pop(FILES, {}), now.pop(FILES, {})
    replaced = _replaced(*files, _other_models(before, now))
    known = {key: value for key, value in before.items() if key in now}
    changed = [*differing_fields(known, now), *replaced]
    if changed:
        shown = "; ".join(changed[:5]) + ("; …" if len(changed) > 5 else "")
        if any(row.startswith("texts.") for row in changed):
            shown += f" (texts are of {', '.join(now['data']['train'])})"
        if replaced:
            shown += f" ({_models_read(now, replaced)} was replaced under its name)"
        raise ConfigError(
            f"{kept[0]} belongs to another config: {shown}. Choose another run.name, "
            "restore these settings to continue, or delete this folder and those of "
            "the phases after it to train them again"
        )


def _replaced(
    before: Mapping[str, Any], now: Mapping[str, Any], others: Collection[str]
) -> list[str]:
    """Files of models that both sides know and that differ; of ``others`` a setting
    tells already that they are other models."""
    both = [n for n in before if n not in others and before[n] and now.get(n)]
    rows = []
    for name in both:
        rows += differing_fields(*compared(before[name], now[name]), f"{FILES}.{name}")
    return rows


def _models_read(record: Mapping[str, Any], rows: Sequence[str]) -> str:
    """What models are called whose files differ."""
    sources = _sources(record)
    named = [n for n in sources if any(r.startswith(f"{FILES}.{n}.") for r in rows)]
    return ", ".join(sources[name] for name in named)


def _other_models(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Names under which the settings of both sides have another model."""
    old, new = _sources(before), _sources(now)
    return {name for name in old.keys() & new.keys() if old[name] != new[name]}


def _sources(record: Mapping[str, Any]) -> dict[str, str]:
    """The models that a record names, the student's among them, as settings do."""
    teachers: dict[str, Any] = {}
    for phase in record.get("phases", {}).values():
        teachers |= phase["teachers"]
    sources = {name: entry["model"] for name, entry in teachers.items()}
    if STUDENT in record:
        sources[STUDENT] = record[STUDENT]["model"]
    return sources


def differing_fields(before: Any, now: Any, path: str = "") -> list[str]:
    """Name every leaf that differs: ``train.steps: stored 40, config 60``.

    A later setting that a record leaves out is told by what that means.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        rows: list[str] = []
        for key in sorted({*before, *now}):
            inside = f"{path}.{key}" if path else str(key)
            absent = LATER.get(key)
            old, new = before.get(key, absent), now.get(key, absent)
            rows += differing_fields(old, new, inside)
        return rows
    if before == now:
        return []
    return [f"{path}: stored {_shown(before)}, config {_shown(now)}"]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):  # a section that the other side has not
        return f"{len(value)} settings"
    return "null" if value is None else brief(value)
