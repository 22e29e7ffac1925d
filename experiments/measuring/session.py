"""Measure models one after the other, with the teachers that they are compared with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from align.errors import InputError
from align.foreign.quote import say
from align.support.quiet import quiet_libraries
from align.text.documents import TextSample
from align.text.prompted import Prompted
from experiments.assemble.data import Encoder
from experiments.config.tree import load_kept_config
from experiments.evaluators.asked import Measurements, ask, ask_of_teachers
from experiments.evaluators.chosen import Chosen
from experiments.record.folder_code import check_trusted
from experiments.record.progress import Progress, waiting
from experiments.report.measure import Opened, check_fits, on, settled
from experiments.sources.named import described_by, source_of
from student.evaluators.base import EvalContext, Pair, Subject, Values
from teacher.capture.pair_capture import capture_of, decoder_start
from teacher.loading.models import LoadedModel, load_model
from teacher.loading.remote_code import code_folder, what_runs
from teacher.names import model_source
from teacher.sources.stored import Stored


def teachers_of(run: Path, trusted: Collection[str] = ()) -> dict[str, str]:
    """The models of a run's teachers, by name; none that moves, is its student, or has
    a store of its own in its place.

    Args:
        run: its folder.
        trusted: teachers whose own code may run.

    Raises:
        ConfigError: one of them has code of its own and is not trusted.
        InputError: one that is trusted is none of the run's.
    """
    config = load_kept_config(run / "config.yaml")
    if strangers := set(trusted) - set(config.teachers):
        raise InputError(
            f"--trust names {min(strangers)!r}, which is no teacher of {run}; its "
            f"teachers are {', '.join(config.teachers) or 'none'}"
        )
    typed = [f"teachers.{name}.trust_remote_code=true" for name in trusted]
    typed.append("student.trust_remote_code=true")  # none of its code runs for this
    check_trusted(run / "config.yaml", config, typed, allows="--trust {name}")
    models = {}
    for name in config.teachers:
        source = source_of(config, name)
        if not (source.of_student or source.moves or isinstance(source, Stored)):
            models[name], _ = described_by(config, source)
    return models


def unable(loaded: LoadedModel, samples: Sequence[TextSample]) -> str:
    """Why a model foretells nothing of these texts; nothing where it does."""
    if loaded.kind == "encoder":
        return "predicts no next token"
    paired = all(isinstance(sample.text, Prompted) for sample in samples)
    if loaded.kind == "encoder-decoder" and not paired:
        return "writes a target to a source, and these texts are no pairs (data.pairs)"
    return ""


def subject_of(
    name: str,
    source: str,
    loaded: LoadedModel,
    encode: Encoder,
) -> Subject:
    """A loaded model as evaluators meet it."""
    device = settled(loaded)
    capture = capture_of(loaded.model)
    folder = Path(str(model_source(source))).expanduser()
    return Subject(
        name=name,
        model=loaded.model,
        capture=capture,
        tokenizer=loaded.tokenizer,
        encode=on(device, encode),
        max_tokens=capture.max_tokens,
        folder=folder if folder.is_dir() else None,
    )


@dataclass(kw_only=True, slots=True)
class Session:
    """What measures models by evaluators; collects what they find."""

    evaluators: Chosen
    sources: Mapping[str, str] = field(default_factory=dict)
    """Models of the teachers, by name."""
    trusted: Collection[str] = ()
    """Of these, whose own code runs."""
    pairs: Sequence[Pair] = ()
    seed: int = 0
    measurements: Measurements = field(init=False)
    _teachers: dict[str, Subject] | None = field(init=False, default=None)
    _last: EvalContext | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Begin with nothing measured."""
        self.measurements = Measurements(metrics=self.evaluators.metrics)

    def __call__(self, opened: Opened, progress: bool) -> Values:
        """Measure one model; see :data:`experiments.report.measure.Measuring`."""
        subject = subject_of(opened.name, opened.source, opened.loaded, opened.encode)
        if self._teachers is None:
            self._teachers = self._loaded(opened.samples, progress)
        self._last = self._context(subject, opened.samples, progress)
        return ask(self.evaluators, self._last, self.measurements)

    def finish(self, progress: bool) -> Measurements:
        """Measure the teachers, too; returns all that was measured."""
        last = self._last
        if last is None:
            raise InputError("no model was measured; give one")
        for name, teacher in last.teachers.items():
            if name not in self.measurements.models:
                ctx = self._context(teacher, last.samples, progress)
                ask(self.evaluators, ctx, self.measurements)
        ask_of_teachers(self.evaluators, last, self.measurements)
        return self.measurements

    def _context(
        self, subject: Subject, samples: Sequence[TextSample], progress: bool
    ) -> EvalContext:
        def shown(items: Iterable, count: int, title: str) -> Iterable:
            return Progress(progress).over(items, title, count)

        return EvalContext(
            subject=subject,
            teachers=self._teachers or {},
            samples=samples,
            pairs=self.pairs,
            seed=self.seed,
            progress=shown,
        )

    def _loaded(
        self, samples: Sequence[TextSample], progress: bool
    ) -> dict[str, Subject]:
        """The teachers, all on the pieces of text that the first model reads."""
        teachers = {}
        for name, source in self.sources.items():
            quiet_libraries()
            with waiting(f"loading {name}", progress):
                trust = name in self.trusted
                if trust:
                    code = what_runs(code_folder(source))
                    say(f"warning: --trust {name}: runs code of {source}: {code}")
                loaded = load_model(source, trust_remote_code=trust)
            if why := unable(loaded, samples):
                self.measurements.notes.append(
                    f"{name} is an {loaded.kind}, which {why}: it is not measured"
                )
                continue
            start = decoder_start(loaded.model)
            encode = Encoder(loaded.tokenizer, None, start=start)
            advice = "apart, and leave it out of --teachers"
            check_fits(
                name,
                loaded,
                encode,
                samples,
                where="for the first model",
                advice=advice,
            )
            teachers[name] = subject_of(name, source, loaded, encode)
        return teachers
