"""``mtkd train --dry-run`` and its short form ``--check``: look before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from align.foreign.quote import put
from align.schedules.setting import in_short
from experiments.commands.tables import console, print_table
from fuse.config import SOFT

if TYPE_CHECKING:
    from rich.text import Text

    from align.layer_map import LayerMap
    from experiments.config.tree import Config
    from experiments.rehearsal.lessons import Masks, PhaseRehearsal
    from experiments.rehearsal.pieces import Piece
    from experiments.rehearsal.readers import Domain
    from experiments.rehearsal.rehearse import Rehearsal
    from experiments.run.plan import RunPlan

LEGEND = (
    "│ ends a token, ⏎ is a line's end; ‹…› holds none of the text (special, or a chat "
    "template's) and, of the student, is not learned"
)


def look_before(plan: RunPlan, whole: bool, changed_plugins: bool) -> int:
    """Say what a run would do.

    Args:
        plan: see :func:`experiments.run.plan.plan_run`.
        whole: also load it and take its first steps.
        changed_plugins: go on where the code of a plugin in use has changed.
    """
    from experiments.run.preflight import describe_plan

    put("\n".join(describe_plan(plan)), flush=True)
    if whole:
        from experiments.rehearsal.rehearse import rehearse

        show(rehearse(plan, changed_plugins), plan)
    return 0


def show(rehearsal: Rehearsal, plan: RunPlan) -> None:
    """Print a rehearsal; colours on a terminal alone."""
    shown_before = set(plan.warnings)
    for sentence in (w for w in rehearsal.warnings if w not in shown_before):
        put(f"warning: {sentence}")
    for sentence in rehearsal.notes:
        put(sentence)
    print()
    _show_readers(rehearsal)
    for domain in rehearsal.domains:
        _show_texts(domain)
    for phase in rehearsal.phases:
        _show_phase(phase, first=phase is rehearsal.phases[0])
    if rehearsal.transformed:
        put("\n".join(rehearsal.transformed) + "\n")
    _show_needs(rehearsal, plan.config)


def _show_readers(rehearsal: Rehearsal) -> None:
    rows = [
        [
            reader.name,
            f"{reader.family}, {reader.kind}",
            reader.shared,
            f"{reader.layers}",
            "" if reader.vocabulary is None else f"{reader.vocabulary:,}",
        ]
        for reader in rehearsal.readers
    ]
    heads = ["model", "architecture", "tokens it shares", "layers", "tokens"]
    print_table("who learns, and from whom", heads, rows, 3)
    rows = []
    for domain in rehearsal.domains:
        for place, counted in enumerate(domain.counted):
            covered = "" if counted.covered is None else f"{counted.covered:.1%}"
            missed = ", ".join(map(repr, counted.missed))
            rows.append(
                [
                    f"{domain.name}, {domain.samples:,}" if place == 0 else "",
                    counted.reader,
                    counted.lost,
                    missed,
                    f"{counted.tokens:,.1f}",
                    covered,
                ]
            )
    heads = ["domain, samples", "read by", "its tokenizer", "such as", "tokens"]
    title = "what is learned from; tokens of a sample, share of the student's covered"
    print_table(title, [*heads[:3], "not covered", "tokens", "covered"], rows, 4)
    put(f"measured on {rehearsal.measured_on:,} held-out samples\n")


def _show_texts(domain: Domain) -> None:
    from rich.table import Table

    shown = console()
    for sample in domain.shown:
        shown.print(f"{domain.name}: the front of {sample.sample}", style="italic")
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for readers, pieces in _alike(sample.pieces):
            marked = _marked(pieces, student=readers[0] == "student")
            table.add_row(", ".join(readers), marked)
        shown.print(table)
    shown.print(LEGEND, style="dim")
    for turns in domain.turns:
        shown.print(
            f"turns of {turns.role}: {turns.turns}, {turns.tokens:,} tokens of "
            f"content; {turns.learned:,} are learned, ends of turns among them"
        )
    shown.print()


def _alike(
    cut: Mapping[str, Sequence[Piece]],
) -> list[tuple[list[str], Sequence[Piece]]]:
    """Teachers that cut a text alike share a row; the student has its own."""
    rows: list[tuple[list[str], Sequence[Piece]]] = []
    for reader, pieces in cut.items():
        same = [readers for readers, others in rows[1:] if others == pieces]
        if same:
            same[0].append(reader)
        else:
            rows.append(([reader], pieces))
    return rows


def _marked(pieces: Sequence[Piece], student: bool) -> Text:
    """A text with its tokens told apart: by bars, and by colours on a terminal."""
    from rich.text import Text

    text, within = Text(), False
    for place, piece in enumerate(pieces):
        words = piece.text.replace("\r", "").replace("\n", "⏎")
        aside = not piece.learned if student else piece.mark
        if aside != within:
            text.append("‹" if aside else "›", style="dim")
        style = "dim italic" if aside else ("cyan", "green")[place % 2]
        text.append(words, style=style)
        text.append("│", style="dim")
        within = aside
    return text.append("›" if within else "", style="dim")


def _show_phase(phase: PhaseRehearsal, first: bool) -> None:
    settings, shown = phase.stage.phase, console()
    teachers = ", ".join(phase.stage.teachers) or "(nobody)"
    shown.print(f"phase {settings.name}: {settings.title}", style="bold")
    fuse = settings.fuse
    chosen = "" if fuse.chosen == SOFT else f", choice {fuse.chosen}"
    shown.print(
        f"from {teachers}; they meet in {fuse.space_name}, weighed by {fuse.router}"
        f"{chosen}"
    )
    rows = [
        [
            term.name,
            term.needs,
            ", ".join(term.teachers),
            "" if term.weight is None else in_short(term.weight),
            "" if term.value is None else f"{term.value:.4g}",
        ]
        for term in phase.terms
    ]
    heads = ["term", "made of", "learned from", "weight", "at the first step"]
    print_table("what is learned", heads, rows, 3)
    _show_masks(phase.masks)
    for name, layer_map in phase.maps.items():
        shown.print(f"student's layers from {name}'s: {_in_words(layer_map)}")
    _show_step(phase, first)
    shown.print()


def _show_masks(masks: Masks) -> None:
    put(
        f"the first pass: {masks.tokens:,} tokens, {masks.marks:,} of them special or "
        f"a template's, {masks.padding:,} of padding; {masks.labels:,} are learned as "
        "next tokens"
    )
    for compared in masks.compared:
        sinks = (
            f"keys and values are compared at {compared.tokens:,}; left out are "
            f"{compared.sinks:,} at the front of texts (attention sinks)"
            if compared.kv
            else f"reaches {compared.tokens + compared.sinks:,}"
        )
        put(f"  {compared.teacher}: {sinks}, {compared.uncovered:,} not covered")


def _in_words(layer_map: LayerMap) -> str:
    """``0←1 1←2+3`` where feeds weigh alike, else with weights."""
    parts = []
    for layer, feeds in enumerate(layer_map):
        alike = len({round(weight, 6) for _, weight in feeds}) == 1
        names = [str(n) if alike else f"{n}·{weight:.2f}" for n, weight in feeds]
        parts.append(f"{layer}←{'+'.join(names)}")
    return "  ".join(parts)


def _show_step(phase: PhaseRehearsal, first: bool) -> None:
    for event in phase.events:
        put(f"warning: the first step was not taken: {event}")
    if not phase.step:
        return
    step, norm = phase.step, phase.step["grad_norm"]
    gradient = "" if norm is None else f", gradient {norm:.3g} before clipping"
    begun = "" if first else " (here from the run's student, not the last phase's)"
    rate = f"learning rate {step['lr']:.2g}"
    if "matrix_lr" in step:
        rate += f", of matrices {step['matrix_lr']:.2g}"
    put(
        f"the first step{begun}: loss {step['loss']:.4g}{gradient}, {rate}, "
        f"{step['step_s']:.2f} s"
    )


def _show_needs(rehearsal: Rehearsal, config: Config) -> None:
    from experiments.estimate.words import arm_rows, gib, memory_rows, said_of

    run = rehearsal.needs
    heads = ["arm", "phases", "steps", "s/step", "time"]
    title = f"the whole run, one process, steps as {run.machine} takes them"
    print_table(title, heads, arm_rows(run), 1)
    put("\n".join(said_of(run)) + "\n")
    title = (
        f"memory of one training process ({gib(rehearsal.device_memory)} there), on "
        "the longest texts"
    )
    print_table(title, ["for", "size"], memory_rows(rehearsal.memory), 1)
    put(
        f"nothing was written to {config.run_dir.absolute()}; the same command without "
        "--dry-run trains"
    )
