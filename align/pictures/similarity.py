"""A picture of how similar two models' layers are, and of the layers chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from align.layer_map import LayerMap
from align.pictures.visualize import INK, SOFT, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = 0.3
_PATH = "#c2571a"


def visualize_layer_similarity(
    similarity: Tensor | Sequence[Tensor],
    layer_map: LayerMap | Sequence[LayerMap] | None = None,
    teacher_names: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draw similarity matrices, a panel a teacher, with the chosen path on top.

    Teacher layers run upwards, student layers across; darker is more similar. The
    line joins the teacher layers that feed each student layer, dots as large as
    their weights.

    Args:
        similarity: (L_t, L_s) in [0, 1], or M of them.
        layer_map: the map of each; None draws no path.
        teacher_names: M names; None numbers the teachers.
        path: where to save a PNG; None saves nothing.

    Returns:
        The figure.

    Raises:
        ValueError: numbers of maps, names or layers do not match.
    """
    matrices = [similarity] if isinstance(similarity, Tensor) else list(similarity)
    if isinstance(layer_map, LayerMap):
        layer_map = [layer_map]
    maps = list(layer_map) if layer_map is not None else [None] * len(matrices)
    names = list(teacher_names or [f"teacher {m}" for m in range(len(matrices))])
    for argument, values in (("layer_map", maps), ("teacher_names", names)):
        if len(values) != len(matrices) or not matrices:
            raise ValueError(
                f"{argument} has {len(values)} entries for {len(matrices)} similarities"
            )
    for name, matrix, chosen_map in zip(names, matrices, maps, strict=True):
        _check(name, matrix, chosen_map)
    tallest = max(matrix.shape[0] for matrix in matrices)
    width = sum(matrix.shape[1] for matrix in matrices)
    size = (1.0 + 1.1 * len(matrices) + _CELL * width, 1.3 + _CELL * tallest)
    figure, *panels = new_figure((max(3.2, size[0]), max(2.6, size[1])), len(matrices))
    image = None
    for axes, name, matrix, chosen_map in zip(
        panels, names, matrices, maps, strict=True
    ):
        image = _draw(axes, matrix, chosen_map)
        axes.set_title(name, color=INK, fontsize=10.5, pad=8)
    panels[0].set_ylabel("teacher layer", color=SOFT, fontsize=9)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.02)
    bar.set_label("CKA", color=SOFT, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=SOFT, length=0)
    bar.outline.set_visible(False)
    return finish(figure, path)


def _check(name: str, matrix: Tensor, layer_map: LayerMap | None) -> None:
    if matrix.dim() != 2:
        raise ValueError(
            f"the similarity of {name!r} has shape {tuple(matrix.shape)}; give "
            "(L_t, L_s)"
        )
    teachers, students = matrix.shape
    if layer_map is None:
        return
    if len(layer_map) != students or layer_map.needed[-1] >= teachers:
        raise ValueError(
            f"the map of {name!r} has {len(layer_map)} student layers and reads "
            f"teacher layer {layer_map.needed[-1]}; its similarity is for {students} "
            f"and layers 0..{teachers - 1}"
        )


def _draw(axes: Any, matrix: Tensor, layer_map: LayerMap | None) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("cka", ["#ffffff", "#9cc3e6", "#123f73"])
    teachers, students = matrix.shape
    values = matrix.detach().double().cpu().numpy()
    image = axes.imshow(values, cmap=ramp, vmin=0, vmax=1, origin="lower")
    if layer_map is not None:
        middle = [sum(layer * w for layer, w in feeds) for feeds in layer_map]
        line = {"color": _PATH, "linewidth": 1.4, "zorder": 2}
        axes.plot(range(students), middle, **line)
        for student, feeds in enumerate(layer_map):
            for layer, weight in feeds:
                axes.scatter(
                    student,
                    layer,
                    s=6 + 30 * weight,
                    color=_PATH,
                    edgecolor="white",
                    linewidth=0.8,
                    zorder=3,
                )
    for ticks, count in ((axes.set_xticks, students), (axes.set_yticks, teachers)):
        stride = -(-count // 16)
        ticks(range(0, count, stride), [str(n) for n in range(0, count, stride)])
    axes.tick_params(labelsize=8, labelcolor=INK, length=0)
    axes.set_xlabel("student layer", color=SOFT, fontsize=9)
    for spine in axes.spines.values():
        spine.set(color=SOFT, linewidth=0.8)
    return image
