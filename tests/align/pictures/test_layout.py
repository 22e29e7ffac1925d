import io

from align.pictures.layout import laid_out
from align.pictures.visualize import new_figure


def drawn(figure, **how):
    figure.savefig(buffer := io.BytesIO(), format="png", **how)
    return buffer.getvalue()


def labelled():
    figure, axes = new_figure((3, 2))
    axes.set_ylabel("a label that needs room")
    axes.set_title("above")
    return figure


def test_what_is_laid_out_once_is_drawn_as_it_would_be(monkeypatch):
    whole = drawn(labelled())
    tight = drawn(labelled(), bbox_inches="tight", pad_inches=0.1)
    figure = labelled()
    engine, calls = figure.get_layout_engine(), []
    execute = engine.execute
    monkeypatch.setattr(engine, "execute", lambda f: calls.append(f) or execute(f))
    with laid_out(figure):
        assert drawn(figure) == whole
        assert drawn(figure, bbox_inches=figure.get_tightbbox().padded(0.1)) == tight
    assert len(calls) == 1
    assert figure.get_layout_engine() is engine
