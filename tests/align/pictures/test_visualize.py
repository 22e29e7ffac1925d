import io
import itertools
import warnings

import pytest
import torch

from align.layer_map import build_multi_teacher_layer_map
from align.pictures.visualize import visualize_alignment, visualize_layer_mapping
from align.tokenizer_align import CharIoUAligner
from align.tokens.batch import encode_batch
from align.tokens.pieces import readable_pieces

pytestmark = pytest.mark.edges


def image(figure):
    from matplotlib.image import imread

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return imread(buffer)


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_an_alignment_of_real_tokens_is_drawn_and_saved(load, tmp_path):
    text = "An unbelievable$5 深度 KV 😀\r\n"
    batches = [encode_batch(load(n), [text]) for n in ("bytes", "metaspace-legacy")]
    names = [
        load(n).convert_ids_to_tokens(b.ids[0].tolist())
        for n, b in zip(("bytes", "metaspace-legacy"), batches, strict=True)
    ]
    path = tmp_path / "new" / "picture.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph would warn
        figure = visualize_alignment(CharIoUAligner()(*batches), *names, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    axes = figure.axes[0]
    assert labels(axes.yaxis)[:2] == ["An", "␣unbelievable"]
    assert labels(axes.xaxis)[0] == "<s>"
    assert r"\$" in labels(axes.yaxis)  # escaped: no formula
    assert image(figure).std() > 0.05


def test_labels_of_forty_tokens_do_not_overlap():
    names = [f"longest_token_{i}" for i in range(40)]
    figure = visualize_alignment(torch.eye(40), names, names)
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [t.get_window_extent() for t in axes.get_xticklabels()]
    assert all(a.x1 <= b.x0 + 0.5 for a, b in itertools.pairwise(boxes))
    boxes = [t.get_window_extent() for t in axes.get_yticklabels()]
    assert all(a.y0 >= b.y1 - 0.5 for a, b in itertools.pairwise(boxes))
    width, height = figure.canvas.get_width_height()
    for text in axes.get_xticklabels() + axes.get_yticklabels():
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_uncovered_student_tokens_are_told():
    figure = visualize_alignment(torch.tensor([[1.0], [0]]), ["a", "b"], ["a"])
    assert "1 of 2 student tokens fed" in figure.get_supxlabel()


def test_pieces_are_made_readable():
    byte_level = ["Ġdeep", "æ·±", "åº", "¦", "Ċ"]
    assert readable_pieces(byte_level) == ["␣deep", "深", "\\xe5\\xba", "\\xa6", "\\n"]
    assert readable_pieces(["▁deep", "<0xE6>", "<0x0A>"]) == ["␣deep", "\\xe6", "\\n"]
    assert readable_pieces(["été", "深"]) == ["été", "深"]


def test_layer_maps_are_drawn_a_panel_a_teacher(tmp_path):
    maps = build_multi_teacher_layer_map([24, 32], 12)
    figure = visualize_layer_mapping(maps, 12, ["qwen", "bytes"], tmp_path / "map.png")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["qwen, 24 layers", "bytes, 32 layers"]
    # one line a pair of layers, as heavy as its weight
    assert len(figure.axes[0].lines) == sum(len(feeds) for feeds in maps[0])
    heavy, light = figure.axes[0].lines[0], figure.axes[0].lines[2]
    assert heavy.get_linewidth() > light.get_linewidth()
    assert (tmp_path / "map.png").stat().st_size > 5000
    assert image(figure).std() > 0.05


def test_one_map_alone_is_drawn_too():
    layer_map = build_multi_teacher_layer_map([3], 1)[0]
    figure = visualize_layer_mapping(layer_map, num_teacher_layers=[5])
    assert figure.axes[0].get_title() == "teacher 0, 5 layers"


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="student_tokens has 1 tokens, but A is for 2"):
        visualize_alignment(torch.eye(2), ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="has 201 tokens; a readable picture has 1 to"):
        visualize_alignment(torch.eye(201), ["a"] * 201, ["a"] * 201)
    with pytest.raises(ValueError, match=r"A has shape \(2, 2, 2\)"):
        visualize_alignment(torch.zeros(2, 2, 2), ["a"], ["a"])
    maps = build_multi_teacher_layer_map([3, 4], 2)
    with pytest.raises(ValueError, match="teacher_names has 1 entries for 2 layer"):
        visualize_layer_mapping(maps, teacher_names=["a"])
    with pytest.raises(ValueError, match="'teacher 0' has 2 student layers, not 3"):
        visualize_layer_mapping(maps, 3)
