"""A model card: who taught a run's student, on what, and what it was worth.

The front matter is huggingface_hub's (:class:`huggingface_hub.ModelCardData`), the body
says what the run measured, with what did not help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.foreign.marker import MARKER
from align.support.whole_file import write_whole
from experiments.publishing.adapter import FOLDER as FOLDER_OF_UPDATES
from experiments.publishing.adapter import (
    Base,
    base_of,
    check_adapter,
    has_adapter,
    settled_config,
)
from experiments.publishing.evidence import FOLDER, config_of, write_evidence
from experiments.publishing.names import is_local, public_name
from experiments.publishing.student import (
    Student,
    brings_code,
    student_folder,
    student_of,
)
from experiments.publishing.terms import Terms, licence_of, terms_of
from experiments.record.run_dir import RunDir
from experiments.record.students import auto_class
from experiments.record.versions import sentence
from experiments.report.arms import arm_table
from experiments.report.layout.document import (
    Block,
    Code,
    Items,
    Paragraph,
    Section,
    Table,
    code,
)
from experiments.report.layout.markdown import block_text, inline
from experiments.report.teachers import number
from experiments.report.verdicts import counted, sentences, table_rows, verdicts
from teacher.names import pinned

README = "README.md"
TAGS = ("knowledge-distillation", "kv-distillation", "mtkd")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What whoever hands a student on says of it."""

    title: str | None = None
    """None: the run's name."""
    licence: str | None = None
    """None: that of what it began as."""
    languages: Sequence[str] = field(default_factory=tuple)
    """Codes such as ``en``."""
    adapter: bool = False
    """The student's low-rank updates alone go, without its weights."""


def write_card(run: RunDir, folder: Path, wishes: Wishes) -> list[Path]:
    """Write ``README.md`` and the evidence beside it.

    Args:
        run: finished, see :func:`experiments.record.run_dir.read_run`.
        folder: where they go; made if it is not there.
        wishes: of whoever hands it on.

    Returns:
        The files, the card first.

    Raises:
        InputError: the run has no student yet, or what it wrote is damaged; or it has
            no updates that could go alone.
    """
    if wishes.adapter:
        check_adapter(student_folder(run), settled_config(config_of(run), run.path))
    text = card_text(run, wishes)
    if (vouched := _vouched(folder)) is not None:
        raise InputError(
            f"{folder} is in {vouched}, whose files are vouched for: one more would "
            "count as damage; give another folder"
        )
    evidence = write_evidence(run, folder / FOLDER)
    write_whole(folder / README, text)
    return [folder / README, *evidence]


def _vouched(folder: Path) -> Path | None:
    """The folder with a marker that this one is, or lies in."""
    whole = folder.absolute()
    every = (whole, *whole.parents)
    return next((path for path in every if (path / MARKER).is_file()), None)


def card_text(run: RunDir, wishes: Wishes) -> str:
    """The card as the hub reads it: YAML between lines of dashes, then Markdown."""
    config, student = config_of(run), student_of(run)
    terms = terms_of(config)
    title = wishes.title or run.name
    sections = [
        _use(
            title if title.count("/") == 1 else "student",
            auto_class(student_folder(run)),
            base_of(settled_config(config, run.path))
            if has_adapter(student_folder(run))
            else None,
            wishes.adapter,
            brings_code(student_folder(run)),
        ),
        _worth(run),
        _teachers(run, terms),
        _texts(config),
        _limits(run, terms, licence_of(terms, wishes.licence)),
        _again(run),
    ]
    blocks = [f"# {inline(title)}", *map(block_text, _lead(run, config, student))]
    for section in sections:
        blocks += [f"## {section.title}", *map(block_text, section.blocks)]
    front = _front(run, config, terms, wishes).to_yaml()
    return f"---\n{front}\n---\n\n" + "\n\n".join(blocks) + "\n"


def _front(
    run: RunDir, config: Mapping[str, Any], terms: Sequence[Terms], wishes: Wishes
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    started = config.get("student") or {}
    model = str(started.get("model", ""))
    model = (pinned(model) or (model,))[0]  # the hub links names alone
    trained_on = started.get("init") != "fresh" and "/" in model
    base = trained_on and not is_local(model)
    title = wishes.title or run.name
    both = auto_class(student_folder(run)) == "AutoModelForSeq2SeqLM"
    task = "text2text-generation" if both else "text-generation"
    return ModelCardData(
        model_name=title,
        library_name="peft" if wishes.adapter else "transformers",
        pipeline_tag=task,
        tags=list(TAGS),
        license=licence_of(terms, wishes.licence),
        language=list(wishes.languages) or None,
        base_model=model if base else None,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=domain,
                dataset_name=f"held-out {domain}",
                metric_type="bits_per_character",
                metric_name="bits per character",
                metric_value=round(bits, 4),
            )
            for domain, bits in _final(run).items()
        ],
    )


def _final(run: RunDir) -> dict[str, float]:
    """Bits per character of the run's student, by domain."""
    last = run.summary.get("final_phase")
    final = next((v.bpc for v in verdicts(run) if v.phase == last), {})
    return {domain: bits for domain, bits in final.items() if bits is not None}


def _lead(run: RunDir, config: Mapping[str, Any], student: Student) -> list[Block]:
    began = config.get("student") or {}
    model = public_name(str(began.get("model", "")))
    how = "drawn anew in the shape of" if began.get("init") == "fresh" else "begun as"
    teachers = run.summary.get("teachers") or {}
    many = f"{len(teachers)} teachers" if len(teachers) != 1 else "one teacher"
    return [
        Paragraph(
            [
                f"A {student.family} of {student.parameters:,} weights "
                f"({student.layers} layers, {student.width} wide, "
                f"{student.vocabulary:,} tokens), {how} ",
                code(model),
                f" and taught by {many} through their keys and values, their hidden "
                "states or what they foretell, by mtkd. It stands alone: no teacher "
                "and nothing of mtkd is needed to run it.",
            ]
        )
    ]


def _use(
    model: str, auto: str, base: Base | None, adapter: bool, code: bool = False
) -> Section:
    """How to load it.

    Args:
        model: its name.
        auto: transformers' class that loads it.
        base: what updates that lie beside it are on; None where none are of use.
        adapter: they are all that there is.
        code: it comes with Python files of its own.
    """
    trusting = ", trust_remote_code=True" if code else ""
    whole = f"model = {auto}.from_pretrained({model!r}{trusting})\n"
    on_base = f"{auto}.from_pretrained({_names(base)}{trusting})"
    updated = f"model = PeftModel.from_pretrained({on_base}, {model!r}"
    text = (
        ("from peft import PeftModel\n" if adapter else "")
        + f"from transformers import {auto}, AutoTokenizer\n\n"
        + f"tokenizer = AutoTokenizer.from_pretrained({model!r})\n"
        + (f"{updated})\n" if adapter else whole)
        + 'tokens = tokenizer("Once", return_tensors="pt")\n'
        + "print(tokenizer.decode(model.generate(**tokens, max_new_tokens=40)[0]))"
    )
    blocks: list[Block] = [Code(text, "python")]
    if code:
        notice = "It comes with Python code of its own, which that runs: read it first."
        blocks.append(Paragraph(notice))
    if base is not None and not adapter:
        place = f"subfolder={FOLDER_OF_UPDATES!r})"
        blocks += [
            Paragraph("Its low-rank updates are merged into these weights, and alone:"),
            Code(f"from peft import PeftModel\n\n{updated}, {place}", "python"),
        ]
    return Section(title="Use", blocks=blocks)


def _names(base: Base | None) -> str:
    if base is None:
        return ""
    pin = f", revision={base.revision!r}" if base.revision else ""
    return f"{base.name!r}{pin}"


def _worth(run: RunDir) -> Section:
    results = verdicts(run)
    heads, rows = table_rows(results)
    blocks: list[Block] = [
        Paragraph(
            "Bits per character of held-out text, lower is better. CE only is the same "
            "student on the same data and steps without teachers; best single learned "
            "from the best one teacher alone."
        ),
        Table(title="phases", heads=heads, rows=rows),
        Paragraph(counted(results)),
        Items(sentences(results)),
    ]
    heads, arms = arm_table(run)
    if arms:
        blocks.append(Table(title="students and teachers", heads=heads, rows=arms))
    return Section(title="What it was worth", blocks=blocks)


def _teachers(run: RunDir, terms: Sequence[Terms]) -> Section:
    licences = {t.name: t.licence or "not known" for t in terms if t.part == "teaching"}
    facts: Mapping[str, Any] = run.summary.get("teachers") or {}
    domains = list(dict.fromkeys(d for t in facts.values() for d in t.get("bpc") or {}))
    rows = [
        [
            name,
            public_name(str(entry.get("model", "–"))),
            str(entry.get("kind", "–")),
            str(entry.get("family", "–")),
            licences.get(name, "–"),
            *(number((entry.get("bpc") or {}).get(domain)) for domain in domains),
        ]
        for name, entry in facts.items()
    ]
    heads = ["teacher", "model", "kind", "family", "licence", *domains]
    return Section(
        title="Teachers",
        blocks=[
            Paragraph(
                "With their own bits per character; an encoder has none. Digests of "
                "the files that were read are in the evidence."
            ),
            Table(title="teachers", heads=heads, rows=rows, numbers_from=5),
        ],
    )


def _texts(config: Mapping[str, Any]) -> Section:
    data = config.get("data") or {}

    def named(key: str) -> str:
        return ", ".join(public_name(str(t)) for t in data.get(key) or [])

    pairs = {
        domain: ", ".join(
            public_name(str(pair[key]))
            for key in ("file", "source", "target")
            if isinstance(pair, Mapping) and pair.get(key)
        )
        for domain, pair in (data.get("pairs") or {}).items()
    }
    held_out = named("eval") or "text of the same sources that is held out"
    return Section(
        title="Texts",
        blocks=[
            Items(
                [
                    f"learned from: {named('train') or 'no texts but pairs'}",
                    *(f"pairs of {name}: {files}" for name, files in pairs.items()),
                    f"measured on: {held_out}",
                    f"at most {data.get('max_length')} tokens a sample",
                ]
            )
        ],
    )


def _limits(run: RunDir, terms: Sequence[Terms], licence: str | None) -> Section:
    lines = [
        "Measured on held-out text of these sources and nothing else: not for truth, "
        "harm, bias, or any task.",
        "What its teachers get wrong it may have learned.",
        f"One run, of seed {run.summary.get('seed', 'unknown')}: differences of a few "
        "thousandths say nothing.",
        f"Licence: {licence}." if licence else "Its licence is not said.",
    ]
    for each in terms:
        if each.redistributable is False:
            verb = "learned from" if each.part == "teaching" else "has its"
            what = "" if each.part == "teaching" else f" {each.part} from"
            lines.append(
                f"It {verb}{what} {each.model} ({each.licence}), whose terms bind "
                "whoever hands it on."
            )
    return Section(title="Limits and terms", blocks=[Items(lines)])


def _again(run: RunDir) -> Section:
    made = run.summary.get("versions") or {}
    lines = [f"mtkd train {FOLDER}/config.yaml"]
    return Section(
        title="Evidence",
        blocks=[
            Paragraph(
                [
                    "Every setting, every number and the digests of all that was read "
                    "and of these weights are in ",
                    code(FOLDER),
                    ". Places of the machine are cut to their last part.",
                    *([f" Made with {sentence(made)}."] if made else []),
                ]
            ),
            Code("\n".join(lines), "bash"),
        ],
    )
