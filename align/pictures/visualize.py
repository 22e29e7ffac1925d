"""Pictures of alignments and layer maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from align.errors import InputError
from align.layer_map import LayerMap
from align.pictures.fonts import legible
from align.pictures.layout import laid_out
from align.support.whole_file import whole_file
from align.time_align import Alignment
from align.tokens.pieces import readable_pieces

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
_COLORS = ("#2563a8", "#c2571a", "#2b8a5f", "#8a4fa3", "#b3405f", "#6b6f1d")
_MAX_TOKENS = 200


def visualize_alignment(
    A: Tensor | Alignment,
    student_tokens: Sequence[str],
    teacher_tokens: Sequence[str],
    path: str | Path | None = None,
    title: str | None = None,
) -> Figure:
    """Draw which teacher tokens feed each student token.

    Student tokens run down, teacher tokens across; darker is more weight, and a
    shaded row is a student token that received none.

    Args:
        A: (T_s, T_t) weights, (1, T_s, T_t), or an Alignment of one text.
        student_tokens: T_s surface pieces, byte-level and ``▁`` ones included, or
            plain strings.
        teacher_tokens: T_t of them.
        path: where to save a PNG; None saves nothing.
        title: a heading; None writes the token counts.

    Returns:
        The figure.

    Raises:
        ValueError: the numbers of tokens do not match ``A``, or there are too many
            to draw.
    """
    weights = _single(A)
    rows, cols = weights.shape
    for name, tokens, count in (
        ("student_tokens", student_tokens, rows),
        ("teacher_tokens", teacher_tokens, cols),
    ):
        if len(tokens) != count:
            raise ValueError(
                f"{name} has {len(tokens)} tokens, but A is for {count}; leave out "
                "padding in both"
            )
        if not 0 < count <= _MAX_TOKENS:
            raise InputError(
                f"{name} has {count} tokens; a readable picture has 1 to "
                f"{_MAX_TOKENS}, so draw a part of the text"
            )
    cell = 0.27 if max(rows, cols) <= 60 else 0.17
    size = (max(3.4, 1.5 + cell * cols), max(2.6, 1.5 + cell * rows))
    figure, axes = new_figure(size)
    across, down = readable_pieces(teacher_tokens), readable_pieces(student_tokens)
    _draw_weights(axes, weights)
    text: dict[str, Any] = {"fontsize": 9 if cell > 0.2 else 6, "color": INK}
    axes.xaxis.tick_top()
    axes.set_xticks(range(cols), [_label(t) for t in across], rotation=90, **text)
    axes.set_yticks(range(rows), [_label(t) for t in down], **text)
    axes.tick_params(length=0, pad=3)
    axes.set_xlabel("teacher tokens", color=SOFT, fontsize=9, labelpad=7)
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("student tokens", color=SOFT, fontsize=9, labelpad=7)
    covered = int((weights.sum(1) > 0).sum())
    heading = title or f"{covered} of {rows} student tokens fed"
    if covered < rows:
        heading += "; the shaded rows got none"
    note: dict[str, Any] = {"color": SOFT, "fontsize": 8.5}
    figure.supxlabel(_label(heading, 200), x=0.01, ha="left", **note)
    return finish(figure, path)


def visualize_layer_mapping(
    layer_map: LayerMap | Sequence[LayerMap],
    num_student_layers: int | None = None,
    teacher_names: Sequence[str] | None = None,
    path: str | Path | None = None,
    num_teacher_layers: int | Sequence[int] | None = None,
) -> Figure:
    """Draw which teacher layers feed each student layer, a panel a teacher.

    Layers run upwards; a line is as heavy as its weight, and hollow teacher layers
    feed nobody.

    Args:
        layer_map: one map or M maps.
        num_student_layers: L_s; None takes the maps' own.
        teacher_names: M names; None numbers the teachers.
        path: where to save a PNG; None saves nothing.
        num_teacher_layers: M numbers of layers, or one for all teachers; None ends
            each teacher at the last layer its map needs.

    Returns:
        The figure.

    Raises:
        ValueError: the number of names, maps or layers does not match.
    """
    maps = [layer_map] if isinstance(layer_map, LayerMap) else list(layer_map)
    if not maps:
        raise ValueError("no layer map to draw; give at least one")
    names = list(teacher_names or [f"teacher {m}" for m in range(len(maps))])
    if isinstance(num_teacher_layers, int):
        num_teacher_layers = [num_teacher_layers] * len(maps)
    depths = list(num_teacher_layers or [m.needed[-1] + 1 for m in maps])
    for argument, values in (("teacher_names", names), ("num_teacher_layers", depths)):
        if len(values) != len(maps):
            raise ValueError(
                f"{argument} has {len(values)} entries for {len(maps)} layer maps"
            )
    for name, chosen_map in zip(names, maps, strict=True):
        if num_student_layers is not None and len(chosen_map) != num_student_layers:
            raise ValueError(
                f"the map of {name!r} has {len(chosen_map)} student layers, not "
                f"{num_student_layers}"
            )
    for name, chosen_map, depth in zip(names, maps, depths, strict=True):
        if chosen_map.needed[-1] >= depth:
            raise ValueError(
                f"the map of {name!r} reads layer {chosen_map.needed[-1]}, but it has "
                f"layers 0..{depth - 1}; give its own num_teacher_layers"
            )
    tallest = max(max(depths), max(len(chosen_map) for chosen_map in maps))
    height = min(9.0, max(2.6, 1.0 + 0.24 * tallest))
    figure, *panels = new_figure((0.4 + 2.9 * len(maps), height), len(maps))
    for index, (axes, chosen_map) in enumerate(zip(panels, maps, strict=True)):
        _draw_map(axes, chosen_map, depths[index], _COLORS[index % len(_COLORS)])
        name = _label(names[index])
        heading: dict[str, Any] = {"color": INK, "fontsize": 10.5}
        axes.set_title(f"{name}, {depths[index]} layers", pad=10, **heading)
    return finish(figure, path)


def _draw_weights(axes: Any, weights: Tensor) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("mass", ["#ffffff", "#9cc3e6", "#123f73"])
    rows, cols = weights.shape
    axes.imshow(weights.numpy(), cmap=ramp, vmin=0, vmax=1, aspect="equal")
    # Minor ticks would draw the same, a dozen objects a line.
    between: dict[str, Any] = {"color": _GRID, "linewidth": 0.6, "snap": True}
    axes.vlines([x - 0.5 for x in range(1, cols)], -0.5, rows - 0.5, **between)
    axes.hlines([y - 0.5 for y in range(1, rows)], -0.5, cols - 0.5, **between)
    axes.margins(0)
    for row in (weights.sum(1) == 0).nonzero()[:, 0].tolist():
        axes.axhspan(row - 0.5, row + 0.5, color="#f3e2dc", zorder=1.5, lw=0)
    for spine in axes.spines.values():
        spine.set(color=SOFT, linewidth=0.8)
    if max(rows, cols) > 20:
        return
    for row, col in weights.nonzero().tolist():
        value = float(weights[row, col])
        axes.text(
            col,
            row,
            "1" if value > 0.995 else f"{value:.2f}"[1:],
            color="white" if value > 0.45 else INK,
            fontsize=6.5,
            ha="center",
            va="center",
        )


def _draw_map(axes: Any, layer_map: LayerMap, depth: int, color: str) -> None:
    def place(layer: int, count: int) -> float:
        return layer / (count - 1) if count > 1 else 0.5

    for student, feeds in enumerate(layer_map):
        for layer, weight in feeds:
            axes.plot(
                [0, 1],
                [place(layer, depth), place(student, len(layer_map))],
                color=color,
                linewidth=0.6 + 2.0 * weight,
                alpha=0.15 + 0.7 * weight,
                solid_capstyle="round",
                zorder=1,
            )
    needed = set(layer_map.needed)
    for x, count, side in ((0, depth, -1), (1, len(layer_map), 1)):
        label_stride = 1 if count <= 36 else -(-count // 24)
        for layer in range(count):
            used = x == 1 or layer in needed
            y = place(layer, count)
            face = (INK if x else color) if used else "white"
            edge = face if used else SOFT
            axes.scatter(x, y, s=26, facecolor=face, edgecolor=edge, zorder=2)
            if layer % label_stride == 0 or layer == count - 1:
                axes.text(
                    x + 0.075 * side,
                    y,
                    str(layer),
                    color=INK if used else SOFT,
                    fontsize=8,
                    ha="right" if side < 0 else "left",
                    va="center",
                )
    axes.set(xlim=(-0.22, 1.22), ylim=(-0.05, 1.05))
    axes.set_xticks([0, 1], ["teacher", "student"], color=SOFT, fontsize=9)
    axes.set_yticks([])
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _label(text: str, longest: int = 24) -> str:
    """The text, cut where long."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return short or "∅"


def _single(A: Tensor | Alignment) -> Tensor:
    dense = A.dense() if isinstance(A, Alignment) else A
    if dense.dim() == 3 and dense.shape[0] == 1:
        dense = dense[0]
    if dense.dim() != 2:
        raise ValueError(
            f"A has shape {tuple(dense.shape)}; give (T_s, T_t), one text at a time"
        )
    return dense.detach().float().cpu()


def new_figure(size: tuple[float, float], panels: int = 1) -> list[Any]:
    """A figure and its axes, outside pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    return [figure, *axes]


def finish(
    figure: Figure,
    path: str | Path | None,
    metadata: Mapping[str, str] | None = None,
) -> Figure:
    """Give a figure fonts that show its text (:func:`~align.pictures.fonts.legible`),
    save it where a path is given, whole or not at all, and hand it on.

    Args:
        figure: what was drawn.
        path: a PNG to write.
        metadata: texts to keep inside the PNG, by keyword.
    """
    legible(figure)
    if path is not None:
        with whole_file(Path(path)) as part, laid_out(figure):
            figure.savefig(
                part,
                format="png",
                bbox_inches=figure.get_tightbbox().padded(0.15),
                metadata=dict(metadata or {}),
            )
    return figure
