from types import SimpleNamespace

import torch

from align.tokens.batch import TokenBatch, encode_batch
from align.views import Asked, ForetoldTokens, TeacherView
from fuse.prequential import PrequentialRouter
from student.output.across.signals import signals_of
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model

TEXT = "unbelievable cat"
NEEDS = SimpleNamespace(needs=frozenset({"foretold", "domain"}))


def batch(spans):
    placed = torch.tensor([spans])
    mask = torch.ones(1, len(spans), dtype=torch.bool)
    return TokenBatch(mask.long(), mask, placed, (TEXT,))


def view(name, foretold):
    return TeacherView(
        name=name, kv=None, alignment=None, causal=None, foretold=foretold
    )


def test_a_token_is_told_what_each_teacher_gave_the_stretch_that_it_ends():
    student = batch([(0, 0), (0, 2), (2, 12), (12, 14), (14, 16)])
    tokens = [
        batch([(0, 0), (0, 2), (2, 8), (8, 12), (12, 16)]),
        batch([(0, 0), (0, 12), (12, 14), (14, 16)]),
    ]
    nats = [[0.0, -1, -2, -4, -8], [0.0, -16, -32, -64]]
    said = [
        ForetoldTokens(t, torch.tensor([n])) for t, n in zip(tokens, nats, strict=True)
    ]
    views = [view("a", said[0]), view("b", None), view("c", said[1])]
    (told,) = signals_of(NEEDS, student, views, ["prose"])
    assert told.teachers == ["a", "b", "c"] and told.domains == ["prose"]
    assert told.ends.tolist() == [[False, False, True, False, True]]
    at_ends = told.foretold[0, [2, 4]]
    assert at_ends[:, [0, 2]].tolist() == [[-7, -16], [-8, -96]]
    assert bool(at_ends[:, 1].isnan().all())
    assert not told.foretold[0, [0, 1, 3]].any()
    weights = PrequentialRouter(4, 3)(torch.zeros(1, 5, 4), told)
    torch.testing.assert_close(weights[0, :3], torch.full((3, 3), 1 / 3))
    assert weights[0, 3, 0] > weights[0, 3, 1] > weights[0, 3, 2]


def test_nothing_is_worked_out_where_nobody_asks():
    assert signals_of(SimpleNamespace(), batch([(0, 16)]), [], None) == ()
    labels = SimpleNamespace(needs=frozenset({"domain"}))
    (told,) = signals_of(labels, batch([(0, 16)]), [view("a", None)], ["prose"])
    assert told.foretold is None and told.domains == ["prose"]


def test_a_live_teacher_tells_how_likely_its_own_tokens_were(tiny_zoo):
    loaded = load_model(str(tiny_zoo["qwen-code"]), role="teacher", dtype=torch.float32)
    teacher = LiveTeacher("code", loaded, KVCapture(loaded.model))
    tokens = encode_batch(teacher.tokenizer, [TEXT, "a cat"])
    asked = Asked(layers=(), kv=False, foretold=True)
    reading = teacher.read(tokens, lambda tokens: (None, None), asked)
    said = teacher.ask(reading, None, asked).foretold
    with torch.no_grad():
        logits = loaded.model(tokens.ids, attention_mask=tokens.mask.long()).logits
    log_p = logits[:, :-1].log_softmax(-1).gather(2, tokens.ids[:, 1:, None])[..., 0]
    expected = torch.where(tokens.mask[:, 1:], log_p, 0)
    torch.testing.assert_close(said.log_probs[:, 1:], expected)
    assert not said.log_probs[:, 0].any()
