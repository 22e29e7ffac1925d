"""Pictures of how teachers meet the student: token by token, and layer by layer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import InputError
from align.foreign.quote import say
from experiments.record.run_dir import MAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.config.tree import Config
    from experiments.run.context import RunContext
    from plugins.registry import Registry

SENTENCE = "def unbelievable(x): return x  # naïve 深度"
"""Drawn for every teacher: a long word, code, an accent, characters beyond ASCII."""

SHOWS = "Source"
"""The PNG keyword under which a picture keeps a digest of what it was drawn from."""


def draw_what_meets(run: RunContext) -> None:
    """Draw a sentence per teacher and the layer maps into a run's ``figures``.

    Pictures of an earlier launch stay where they show the same, since one takes as long
    as many steps; those of what the run has no more are removed.

    Args:
        run: what all arms share.
    """
    from align.layer_map import needs_sample

    folder = run.run_dir / "figures"
    wanted = _draw_alignments(run, folder) | _draw_maps(run, folder)
    for stage in run.arms[MAIN]:
        strategy = stage.phase.align.layer_mapping_strategy
        if needs_sample(run.registry.guarded("layer_map", strategy)):
            wanted.add(folder / f"layer_similarity_{stage.phase.name}.png")
    for kind in ("alignment_*.png", "layer_map.png", "layer_similarity_*.png"):
        for picture in set(folder.glob(kind)) - wanted:
            picture.unlink()


def _draw_alignments(run: RunContext, folder: Path) -> set[Path]:
    """A picture for each teacher whose tokenizer can read the sentence."""
    aligner = run.registry.guarded("aligner", run.config.align.aligner)()
    drawn = set()
    for name in run.config.teachers:
        teacher = run.models.teacher(name).tokenizer
        picture = folder / f"alignment_{name}.png"
        try:
            draw_alignment(
                aligner, run.models.student_tokenizer, teacher, SENTENCE, picture
            )
        except ValueError as error:
            say(f"warning: no picture of teacher {name!r}: {error}")
        else:
            drawn.add(picture)
    return drawn


def _draw_maps(run: RunContext, folder: Path) -> set[Path]:
    """The picture of the layer maps, where they follow from depths alone; of teachers
    that give outputs and no layers, such as served ones, there is nothing to draw."""
    from align.layer_map import needs_sample

    strategy = run.config.align.layer_mapping_strategy
    teachers = run.models.chosen(run.config.teachers)
    depths = {name: t.sizes.layers for name, t in teachers.items() if t.sizes.layers}
    if not depths or needs_sample(run.registry.guarded("layer_map", strategy)):
        return set()
    picture = folder / "layer_map.png"
    draw_layers(
        run.config,
        run.registry,
        strategy=strategy,
        depths=depths,
        student_layers=run.models.student_layers,
        path=picture,
    )
    return {picture}


def draw_alignment(
    aligner: Any, student: Any, teacher: Any, text: str, path: Path
) -> Path:
    """Draw one text's alignment between two tokenizers.

    Args:
        aligner: maps two token batches to an Alignment.
        student: the student's fast tokenizer.
        teacher: the teacher's.
        text: one short text.
        path: PNG to write, unless it shows the same already.

    Raises:
        ValueError: the text is blank or too long to draw.
    """
    from align.pictures.visualize import visualize_alignment
    from align.tokens.batch import encode_batch

    if not text.strip():
        raise InputError("--text is blank; give one sentence")
    batches = [encode_batch(tokenizer, [text]) for tokenizer in (student, teacher)]
    ours, theirs = (
        tokenizer.convert_ids_to_tokens(batch.ids[0].tolist())
        for tokenizer, batch in zip((student, teacher), batches, strict=True)
    )
    alignment = aligner(*batches)
    return _draw_once(
        path,
        [ours, theirs, alignment.dense().tolist()],
        lambda: visualize_alignment(alignment, ours, theirs),
    )


def draw_layers(
    config: Config,
    registry: Registry,
    *,
    strategy: str,
    depths: dict[str, int],
    student_layers: int,
    path: Path,
) -> Path:
    """Draw the layer maps of some teachers, a panel each.

    Args:
        config: its ``align.layer_map`` replaces the strategy where it names one.
        registry: knows the strategy.
        strategy: a registered layer map.
        depths: layers of every teacher, by name.
        student_layers: layers of the student.
        path: PNG to write, unless it shows the same already.

    Raises:
        ValueError: the map needs a sample, which only a run has.
    """
    from align.layer_map import build_multi_teacher_layer_map, needs_sample
    from align.pictures.visualize import visualize_layer_mapping

    function = registry.guarded("layer_map", strategy)
    if needs_sample(function):
        raise InputError(
            f"the layer map {strategy!r} follows from what layers compute on a run's "
            "calibration sample; a run that uses it draws it in "
            "figures/layer_similarity_PHASE.png"
        )
    maps = []
    for name, depth in depths.items():
        listed = config.align.layer_map.get(name)
        if listed is None:
            maps.append(function(depth, student_layers))
        else:
            maps += build_multi_teacher_layer_map(
                [depth], student_layers, [listed], [name]
            )
    return _draw_once(
        path,
        [depths, student_layers, [list(layer_map) for layer_map in maps]],
        lambda: visualize_layer_mapping(
            maps,
            student_layers,
            list(depths),
            num_teacher_layers=list(depths.values()),
        ),
    )


def _draw_once(path: Path, shown: Any, draw: Callable[[], Figure]) -> Path:
    """Draw a picture, unless the file is one of the same.

    Args:
        path: PNG to write.
        shown: all that it is drawn from, as plain data.
        draw: makes the figure.
    """
    from align.pictures.visualize import finish

    digest = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
    if _digest_in(path) != digest:
        finish(draw(), path, {SHOWS: digest})
    return path


def _digest_in(picture: Path) -> str | None:
    """Of what a picture was drawn from; None of one that does not say."""
    from PIL import Image

    try:
        with Image.open(picture) as image:
            shown = image.info.get(SHOWS)
    except OSError:  # there is none, or it is damaged
        return None
    return shown if isinstance(shown, str) else None
