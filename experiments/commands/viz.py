"""``mtkd viz``: pictures of an alignment, of layer maps, of a run's routing."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from experiments.commands.parser import (
    ANY_CONFIG,
    PLUGIN_OPTIONS,
    RUN,
    Command,
    Group,
    config_of,
    count,
    option,
    registry_of,
)

ALIGNERS = "char_iou, causal_char_iou, last_token, chunk_end"
LAYER_MAPS = "ratio, uniform, skip, floor, origin"
"""What can be chosen, in words: a help text does not load what knows it."""


def alignment_command(options: Namespace) -> int:
    """Draw how one text's tokens meet between two tokenizers."""
    from experiments.report.alignment import draw_alignment

    registry = registry_of(options, strict=True)
    path = draw_alignment(
        registry.guarded("aligner", options.aligner)(),
        load_tokenizer(options.student),
        load_tokenizer(options.teacher),
        options.text,
        Path(options.out),
    )
    print(f"wrote {path}")
    return 0


ALIGNMENT = Command(
    name="alignment",
    action=alignment_command,
    what="draw how one text's tokens meet between two tokenizers",
    examples=(
        ("mtkd viz alignment --student gpt2 --teacher ./bert --text 'Unlike!'", ""),
        (
            "mtkd viz alignment --student zoo:student --teacher zoo:t5-mixed "
            "--text 'a = b' --aligner char_iou --out a.png",
            "",
        ),
    ),
    options=(
        option("--student", required=True, help="model or tokenizer folder"),
        option("--teacher", required=True, help="model or tokenizer folder"),
        option("--text", required=True, help="one sentence"),
        option(
            "--aligner",
            default="causal_char_iou",
            help=f"{ALIGNERS} or a plugin's (causal_char_iou)",
        ),
        option("--out", default="alignment.png", help="PNG to write (alignment.png)"),
        *PLUGIN_OPTIONS,
    ),
)


def layers_command(options: Namespace) -> int:
    """Draw which teacher layers feed which student layer."""
    from align.errors import InputError
    from experiments.config.presets import load_registry
    from experiments.report.alignment import draw_layers

    given = (options.teacher_layers, options.student_layers)
    if options.config is None and None in given:
        raise InputError(
            "give a config, or both --teacher-layers (such as 24,32) and "
            "--student-layers (such as 12)"
        )
    if options.config is not None and given != (None, None):
        raise InputError(
            "--teacher-layers and --student-layers stand for models, and so does "
            f"{options.config!r}; give numbers alone, or a config alone"
        )
    config = config_of(options, looks=True)
    registry = load_registry(config)
    if options.config is None:
        depths = _depths(options.teacher_layers)
        student = options.student_layers
    else:
        from experiments.making.made import with_made_student
        from experiments.sources.named import described_by, sources_of, stored_facts

        depths = {}
        for name, source in sources_of(config, registry).items():
            stored = stored_facts(source)
            depths[name] = (
                num_layers(described_by(config, source)[0])
                if stored is None
                else stored.sizes.layers
            )
        config = with_made_student(config, registry)
        student = num_layers(config.student.model)
    strategy = options.strategy or config.align.layer_mapping_strategy
    path = draw_layers(
        config,
        registry,
        strategy=strategy,
        depths=depths,
        student_layers=student,
        path=Path(options.out),
    )
    print(f"wrote {path}")
    return 0


LAYERS = Command(
    name="layers",
    action=layers_command,
    what="draw which teacher layers feed which student layer",
    examples=(
        ("mtkd viz layers --teacher-layers 24,32 --student-layers 12", "numbers"),
        ("mtkd viz layers quickstart", "the models of a config"),
    ),
    options=(
        *ANY_CONFIG,
        option("--teacher-layers", help="such as 24,32"),
        option("--student-layers", type=count, help="such as 12"),
        option(
            "--strategy",
            help=f"{LAYER_MAPS} or a plugin's (the config's, else ratio)",
        ),
        option("--out", default="layers.png", help="PNG to write (layers.png)"),
        *PLUGIN_OPTIONS,
    ),
)


def routing_command(options: Namespace) -> int:
    """Draw a run's routing weights over time."""
    from align.errors import InputError
    from experiments.assemble.text_sources import tell
    from experiments.record.run_dir import read_run
    from experiments.report.routing import draw_routing_domains, draw_routing_layers

    run = read_run(Path(options.run))
    tell(run.faults)
    folder = Path(options.out) if options.out else run.figures
    drawings = {
        "routing_domains": draw_routing_domains,
        "routing_layers": draw_routing_layers,
    }
    written = 0
    for name, draw in drawings.items():
        figure = draw(run)
        if figure is not None:
            print(f"wrote {save(figure, folder / f'{name}.png')}")
            written += 1
    if not written:
        raise InputError(
            f"{run.path} holds no routing lines; phases with "
            "fuse.fusion_method=learnable or similarity write them"
        )
    return 0


ROUTING = Command(
    name="routing",
    action=routing_command,
    what="draw a run's routing weights over time, per domain and per layer",
    examples=(
        ("mtkd viz routing runs/quickstart", "into the run's figures"),
        ("mtkd viz routing runs/quickstart --out pictures", "elsewhere"),
    ),
    options=(RUN, option("--out", help="folder to write (the run's figures)")),
)

VIZ = Group(
    name="viz",
    what="draw an alignment, layer maps, or a run's routing",
    examples=(
        ("mtkd viz alignment --student gpt2 --teacher ./bert --text 'Hi'", ""),
        ("mtkd viz layers --teacher-layers 24,32 --student-layers 12", ""),
        ("mtkd viz routing runs/quickstart", ""),
    ),
    commands=(ALIGNMENT, LAYERS, ROUTING),
)


def load_tokenizer(name: str) -> Any:
    """Load a fast tokenizer by hub name, folder or ``zoo:`` name, as a run does.

    Raises:
        ValueError: there is none.
    """
    from align.errors import InputError
    from teacher.loading.tokenizer import load_tokenizer as load
    from teacher.names import model_source

    try:
        return load(name, model_source(name), {"trust_remote_code": False})
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0].rstrip(". ")
        raise InputError(
            f"no tokenizer for {name!r}: {first}. Give a hub name, a folder with "
            "tokenizer.json, or zoo:NAME"
        ) from None


def num_layers(name: str) -> int:
    """Read a model's number of layers from its config, loading no weights.

    Raises:
        ValueError: there is no such model, or its config names no layers.
    """
    from align.errors import InputError
    from teacher.loading.model_config import read_config

    config, _ = read_config(name)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if layers is None:
        raise InputError(
            f"the config of {name!r} names no num_hidden_layers; use --teacher-layers"
        )
    return int(layers)


def save(figure: Any, path: Path) -> Path:
    """Write a figure as PNG."""
    from align.pictures.fonts import legible
    from align.pictures.layout import laid_out
    from align.support.whole_file import whole_file

    with whole_file(path) as part, laid_out(legible(figure)):
        figure.savefig(part, format="png", facecolor="white")
    return path


def _depths(text: str) -> dict[str, int]:
    from align.errors import InputError

    try:
        depths = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--teacher-layers is {text!r}; give such as 24,32") from None
    return {f"teacher {i + 1}": depth for i, depth in enumerate(depths)}
