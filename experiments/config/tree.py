"""The whole config of a run: one tree, one parser, one precedence.

Defaults, then the file, then ``key=value`` overrides make the general sections.
Each phase lays over them, in this order: its preset, ``phase.all``, ``phase.<name>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from align.config import AlignConfig
from align.errors import MtkdError, meant
from align.support.whole_file import write_whole
from experiments.config.measuring import (
    AlarmConfig,
    BaselineConfig,
    EvalConfig,
    GateConfig,
    SamplesConfig,
)
from experiments.config.packaged import config_path
from experiments.config.parsing import (
    ConfigError,
    build,
    check,
    load_mapping,
    merge,
    parse_override,
    plain,
)
from experiments.config.phase_choice import (
    EVERY_PHASE,
    PHASES,
    check_counts,
    default_phases,
    kinds_here,
)
from experiments.config.schema import Partial
from experiments.config.sections import (
    PhaseSections,
    RunConfig,
    StoreConfig,
    StudentConfig,
)
from experiments.config.short_forms import write_out, write_out_phase
from experiments.texts.config import DataConfig
from fuse.config import FuseConfig
from student.config import LossConfig, TrainConfig
from student.output_config import OutputConfig
from teacher.answers_config import AnswersConfig
from teacher.teacher_config import TeacherConfig
from teacher.teacher_rule import (
    OfKind,
    TeacherFacts,
    TeacherRule,
    select_teachers,
    too_few,
)

GENERAL = ("align", "fuse", "loss", "output", "train")
"""The general sections which a phase may change."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PHASE = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything a run depends on."""

    run: RunConfig = field(default_factory=RunConfig)
    """Name, place, seed."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The model that learns."""
    teachers: dict[str, TeacherConfig] = field(default_factory=dict)
    """The frozen teachers, by a name of your choice."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training and held-out text."""
    align: AlignConfig = field(default_factory=AlignConfig)
    """Alignment, for every phase."""
    fuse: FuseConfig = field(default_factory=FuseConfig)
    """Fusion, for every phase."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Objective, for every phase."""
    output: OutputConfig = field(default_factory=OutputConfig)
    """Objectives on next-token distributions, for every phase."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Loop, for every phase."""
    phases: list[str] = field(default_factory=lambda: list(PHASES))
    """Phases to run, in this order; each starts from the last one's student. Where it
    is not given, those of the five for which there are teachers enough of the kinds
    they take, and where there are for none ``single``."""
    phase: dict[str, Annotated[dict[str, Any], Partial(PhaseSections)]] = field(
        default_factory=dict
    )
    """Settings of single phases (``phase.routing.train.steps``), or of every phase
    (``phase.all.…``); they win over the phase's preset."""
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    """Comparisons."""
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    """What teachers said, for arms that read it again."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """What students are measured by."""
    gate: GateConfig = field(default_factory=GateConfig)
    """Phases that do harm."""
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    """What is warned of while training."""
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    """What the student writes."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Stored teachers."""
    plugins: list[str] = field(default_factory=list)
    """Modules, or paths of .py files, to load as plugins besides the installed ones.
    A relative path starts from the folder in which the command runs, not from the
    config's. They run with your rights: a config that names any is a program."""
    skip_plugins: list[str] = field(default_factory=list)
    """Installed plugins (entry points or distributions) that are not loaded."""

    def __post_init__(self) -> None:
        """Check what spans sections.

        Raises:
            ValueError: a name which cannot be used or is not known.
        """
        for name in self.teachers:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"teachers has {name!r}; name teachers with letters, digits, '-' "
                    "and '_' (a dot would separate keys), the model may be any path"
                )
        for name in self.phases:
            if not _PHASE.fullmatch(name):
                raise ConfigError(
                    f"phases has {name!r}; a phase's name, which its folder bears, is "
                    "of lower-case letters, digits, '_' and '-'"
                )
        if not self.phases:
            raise ConfigError(f"phases is empty; give some of {', '.join(PHASES)}")
        repeated = [name for name in self.phases if self.phases.count(name) > 1]
        if repeated:
            raise ConfigError(f"phases names {repeated[0]!r} twice; name a phase once")
        for key in ("single_teachers", "leave_one_out"):
            wanted = getattr(self.baselines, key)
            if isinstance(wanted, list):
                _known(f"baselines.{key}", wanted, self.teachers)
        if isinstance(self.answers.keep, list):
            _known("answers.keep", self.answers.keep, self.teachers)
        _known("align.layer_map", self.align.layer_map, self.teachers)
        if isinstance(self.store.read, list):
            _known("store.read", self.store.read, self.teachers)
        for name, wanted in self.output.teachers.items():
            _known(f"output.teachers.{name}", wanted, self.teachers)

    @property
    def vocabulary(self) -> str | None:
        """The model whose vocabulary the student gets; None: its own."""
        name = self.student.tokenizer
        return self.teachers[name].model if name in self.teachers else name

    @property
    def run_dir(self) -> Path:
        """The run's directory."""
        return Path(self.run.dir) / self.run.name

    @property
    def store_dir(self) -> Path:
        """The directory of the run's stored teachers."""
        return Path(self.store.dir) / (self.store.name or self.run.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseConfig:
    """One phase, with nothing left to look up."""

    name: str
    preset: str
    """The registered phase that it takes after; most often its name."""
    title: str
    begins: str
    """See :attr:`experiments.config.sections.PhaseSections.begins`."""
    rule: TeacherRule
    """How it chooses teachers."""
    teachers: list[str]
    """Teachers it may take, in order: the rule's names, or all of the run's."""
    transform: Mapping[str, Any] = field(default_factory=dict)
    """Of its student, by name: its own, or the run's."""
    absent: tuple[str, ...] = ()
    """Teachers of the run that are not there yet when it begins."""
    align: AlignConfig
    fuse: FuseConfig
    loss: LossConfig
    output: OutputConfig
    train: TrainConfig

    def select(self, facts: Mapping[str, OfKind]) -> list[str]:
        """Choose this phase's teachers once their kinds are known.

        Args:
            facts: kind and family by name, at least for ``teachers``.

        Raises:
            ConfigError: too few teachers fit.
        """
        known = {name: facts[name] for name in self.teachers}
        try:
            return select_teachers(self.rule, known, self.name)
        except ValueError as error:
            raise ConfigError(str(error)) from None


def load_config(
    source: str | Path | Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Config:
    """Read a config: defaults, then the file, then the overrides.

    Args:
        source: a YAML file, the name of a packaged config or recipe, plain
            data, or None for defaults alone. A file's stem becomes ``run.name``
            where the file gives none.
        overrides: dotted settings, such as ``fuse.temperature=0.5``, or
            ``teachers=[gpt2, facebook/opt-125m]``.

    Raises:
        ConfigError: anything in it that cannot be used.
    """
    data: dict[str, Any] = {}
    if isinstance(source, Mapping):
        data = write_out(source)
    elif source is not None:
        path = config_path(source)
        data = write_out(load_mapping(path))
        if path.name != "config.yaml":
            stem = {"run": {"name": re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem)}}
            data = merge(stem, data)
    for item in overrides:
        top = parse_override(item)
        if isinstance(top.get("teachers"), list):
            data.pop("teachers", None)  # a list names all of them
        data = merge(data, write_out(top))
    if "phases" not in data and isinstance(data.get("teachers"), dict):
        data["phases"] = default_phases(kinds_here(data["teachers"]), data.get("phase"))
    return build(Config, data)


def load_kept_config(file: Path) -> Config:
    """Read the ``config.yaml`` that lies with a run or with stores.

    Nobody passed it, so what is wrong in it is told with its name.

    Raises:
        ConfigError: anything in it that cannot be used.
    """
    try:
        return load_config(file)
    except MtkdError as error:
        if str(file) not in str(error):
            error.args = (f"{file}: {error}",)
        raise


def config_text(config: Config | PhaseConfig) -> str:
    """Give the whole config as YAML which :func:`load_config` reads back."""
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def save_config(config: Config | PhaseConfig, path: Path) -> None:
    """Write the resolved config, all at once or not at all."""
    write_whole(path, config_text(config))


def resolve_phase(
    config: Config, phase_name: str, presets: Mapping[str, Mapping[str, Any]]
) -> PhaseConfig:
    """Lay preset, ``phase.all`` and ``phase.<name>`` over the general sections.

    Args:
        config: the run's config.
        phase_name: one of ``presets``.
        presets: partial configs by phase name, from the registry.

    Raises:
        ConfigError: no such phase, a setting that cannot be used, or fewer
            teachers than the phase needs.
    """
    for name in (*config.phase, phase_name):
        like = preset_name(config, name, presets)
        if like not in presets and name != EVERY_PHASE:
            place = "phase." if name != phase_name else "phases: "
            place = f"{place}{name}" if like == name else f"phase.{name}.like {like}"
            raise _unknown(place, like, presets)
    every = config.phase.get(EVERY_PHASE, {}).get("like")
    if every and every not in presets:
        raise _unknown(f"phase.{EVERY_PHASE}.like {every}", every, presets)
    taken = preset_name(config, phase_name, presets)
    preset = write_out_phase(presets[taken])
    try:
        check(PhaseSections, preset, f"phase.{phase_name}", Config, partial=True)
    except ConfigError as error:
        raise ConfigError(f"preset of phase {phase_name!r}: {error}") from None
    layers = (
        {key: plain(getattr(config, key)) for key in GENERAL},
        preset,
        config.phase.get(EVERY_PHASE, {}),
        config.phase.get(phase_name, {}),
    )
    check_counts(phase_name, taken, preset, config.phase)
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    try:
        sections = build(PhaseSections, merged, f"phase.{phase_name}", Config)
    except ConfigError as error:
        raise ConfigError(f"phase {phase_name!r}: {error}") from None
    return _with_teachers(config, phase_name, sections, taken)


def preset_name(config: Config, phase_name: str, presets: Iterable[str]) -> str:
    """The registered phase whose preset a phase takes: by ``like``, else its own."""
    chosen, every = (config.phase.get(n, {}) for n in (phase_name, EVERY_PHASE))
    if chosen.get("like"):
        return str(chosen["like"])
    known = phase_name in presets
    return phase_name if known else str(every.get("like") or phase_name)


def resolve_phases(
    config: Config, presets: Mapping[str, Mapping[str, Any]]
) -> list[PhaseConfig]:
    """Resolve every phase of the run, so that errors come before work.

    Raises:
        ConfigError: see :func:`resolve_phase`.
    """
    return [resolve_phase(config, name, presets) for name in config.phases]


def hidden_settings(
    config: Config, presets: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Find general settings that were changed in vain, because presets set them too.

    Returns:
        One sentence per setting, with the key that would reach the phases.
    """
    changed, defaults = plain(config), plain(Config())
    hidden: dict[str, list[str]] = {}
    for phase in config.phases:
        sections = (config.phase.get(EVERY_PHASE, {}), config.phase.get(phase, {}))
        for section in GENERAL:
            for key in presets[preset_name(config, phase, presets)].get(section, {}):
                aware = any(key in part.get(section, {}) for part in sections)
                if not aware and changed[section][key] != defaults[section][key]:
                    hidden.setdefault(f"{section}.{key}", []).append(phase)
    return [
        f"{name} has no effect in {', '.join(phases)}, whose preset sets it; "
        f"phase.{EVERY_PHASE}.{name} would win"
        for name, phases in hidden.items()
    ]


def _with_teachers(
    config: Config, name: str, sections: PhaseSections, preset: str
) -> PhaseConfig:
    rule = sections.teachers
    names = list(config.teachers) if rule.names is None else list(rule.names)
    _known(f"phase.{name}.teachers", names, config.teachers)
    if len(names) < rule.min:
        unseen = {
            teacher: TeacherFacts(kind=entry.model, family="")
            for teacher, entry in config.teachers.items()
        }
        raise ConfigError(too_few(rule, name, names, unseen))
    return PhaseConfig(
        name=name,
        preset=preset,
        title=sections.title or name,
        begins=sections.begins,
        rule=rule,
        teachers=names,
        transform=config.student.transform
        if sections.transform is None
        else sections.transform,
        align=sections.align,
        fuse=sections.fuse,
        loss=sections.loss,
        output=sections.output,
        train=sections.train,
    )


def _known(place: str, names: Iterable[str], valid: Iterable[str]) -> None:
    for name in names:
        if name not in valid:
            raise _unknown(f"{place} names {name!r}, which", name, valid)


def _unknown(place: str, name: str, valid: Iterable[str]) -> ConfigError:
    listed = list(valid)
    return ConfigError(
        f"{place} is not known{meant(name, listed)} Valid: "
        f"{', '.join(listed) or 'none'}."
    )
