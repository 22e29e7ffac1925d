import math

import numpy as np
import torch

from align.tokens.batch import TokenBatch, encode_batch
from align.views import Asked, ForetoldTokens, LinearHead, Output, TeacherView
from fuse.routers.prequential import PrequentialRouter
from fuse.signals import SIGNALS
from student.output.across.signals import Sources, signals_of
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model

TEXT = "unbelievable cat"
NEEDS = frozenset({"foretold", "domain"})


def batch(spans):
    placed = torch.tensor([spans])
    mask = torch.ones(1, len(spans), dtype=torch.bool)
    return TokenBatch(mask.long(), mask, placed, (TEXT,))


def view(name, foretold, output=None):
    return TeacherView(
        name=name,
        kv=None,
        alignment=None,
        causal=None,
        foretold=foretold,
        output=output,
    )


def says(spans, ids, logits, vocabulary):
    """An output of one-hot hidden states: the head's rows are the logits."""
    tokens = TokenBatch(
        torch.tensor([ids]),
        torch.ones(1, len(ids), dtype=torch.bool),
        torch.tensor([spans]),
        (TEXT,),
    )
    head = LinearHead(torch.tensor(logits, dtype=torch.float32).T)
    return Output(tokens, torch.eye(len(ids))[None], head, vocabulary)


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
    sources = Sources(batch=student, views=views, domains=["prose"])
    told = signals_of(NEEDS | {"loss_so_far"}, sources)
    assert told.teachers == ["a", "b", "c"] and told.domains == ["prose"]
    assert told.ends.tolist() == [[False, False, True, False, True]]
    at_ends = told.foretold[0, [2, 4]]
    assert at_ends[:, [0, 2]].tolist() == [[-7, -16], [-8, -96]]
    assert bool(at_ends[:, 1].isnan().all())
    assert not told.foretold[0, [0, 1, 3]].any()
    # 12 characters of 7 and 16 nats, then 16 of 15 and 112
    expected = np.array([[7 / 12, 16 / 12], [7 / 12, 16 / 12], [15 / 16, 112 / 16]])
    so_far = told.loss_so_far[0]
    assert bool(so_far[:2].isnan().all()) and bool(so_far[:, 1].isnan().all())
    np.testing.assert_allclose(so_far[2:, [0, 2]], expected, rtol=1e-6)
    weights = PrequentialRouter(4, 3)(torch.zeros(1, 5, 4), told)
    torch.testing.assert_close(weights[0, :3], torch.full((3, 3), 1 / 3))
    assert weights[0, 3, 0] > weights[0, 3, 1] > weights[0, 3, 2]


def test_nothing_is_worked_out_where_nobody_asks():
    sources = Sources(
        batch=batch([(0, 16)]), views=[view("a", None)], domains=["prose"]
    )
    assert signals_of(frozenset(), sources) is None
    told = signals_of(frozenset({"domain"}), sources)
    assert told.foretold is None and told.domains == ["prose"]
    asked = {name for name in SIGNALS if getattr(told, name, None) is not None}
    assert not asked


STUDENT = [(0, 0), (0, 2), (2, 12), (12, 16)]
"""A begin-of-text token, and "un", "believable", " cat"."""
LOGITS = np.array([[0.0, 1, 2], [3, 0, 1], [1, 1, 0], [0, 0, 3]])


def test_what_teachers_of_any_vocabulary_say_is_read_at_the_students_tokens():
    ids = [0, 1, 2, 0]
    mine = says(STUDENT, ids, LOGITS, "s")
    alike = says(STUDENT, ids, 2 * LOGITS, "s")
    agreed = says(STUDENT, ids, LOGITS * [[1], [1], [-1], [1]], "s")
    other_spans = [(0, 0), (0, 2), (2, 9), (9, 16)]  # "un", "believa", "ble cat"
    other = says(other_spans, ids, -LOGITS, "t")
    outputs = {"a": alike, "b": other, "c": agreed, "bert": None}
    views = [view(name, None, output) for name, output in outputs.items()]
    sources = Sources(
        batch=mine.tokens,
        views=views,
        student=mine,
        vocabulary="s",
        parameters={"a": 30, "c": 10},
    )
    told = signals_of(SIGNALS - {"foretold", "loss_so_far", "kv_fit"}, sources)
    p = {name: softmax(x) for name, x in (("a", 2 * LOGITS), ("b", -LOGITS))}
    # what comes after token t is 1, 2, 0, and nothing after the last
    came = [np.log(p["a"][t, i]) for t, i in enumerate([1, 2, 0])]
    np.testing.assert_allclose(told.log_prob[0, :3, 0], came, rtol=1e-5)
    # of b, "un" is one stretch; "believable cat", 14 characters, the other
    first = np.log(p["b"][0, 1])
    rest = np.log(p["b"][1, 2]) + np.log(p["b"][2, 0])
    expected = [first, rest * 10 / 14, rest * 4 / 14]
    np.testing.assert_allclose(told.log_prob[0, :3, 1], expected, rtol=1e-5)
    # after "unbelievable" the last of b's tokens that read no further ends at 9
    for m, q in enumerate(p.values()):
        entropy = -(q * np.log(q)).sum(-1)
        np.testing.assert_allclose(told.entropy[0, :, m], entropy, rtol=1e-5)
        np.testing.assert_allclose(told.max_prob[0, :, m], q.max(-1), rtol=1e-5)
    assert bool(told.entropy[..., 3].isnan().all())
    # likeliest are 2, 0, 0 or 1 of a; of b 0, 1, 2, and the same tokens come
    assert told.right[0, :, 0].nan_to_num(-1).tolist() == [0, 0, 1, -1]
    assert told.right[0, :, 1].nan_to_num(-1).tolist() == [0, 0, 0, -1]
    assert told.agreement[0, :3].tolist() == [1, 1, 0]  # a and c alone can agree
    assert told.cost.nan_to_num(-1).tolist() == [30, -1, 10, -1]
    assert told.widths.tolist() == [[0, 2, 10, 4]]
    q = softmax(LOGITS)
    own = [np.log(q[t, i]) for t, i in enumerate([1, 2, 0])]
    np.testing.assert_allclose(told.student_log_prob[0, :3], own, rtol=1e-5)
    entropy = -(q * np.log(q)).sum(-1)
    np.testing.assert_allclose(told.student_entropy[0], entropy, rtol=1e-5)
    np.testing.assert_allclose(told.student_max_prob[0], q.max(-1), rtol=1e-5)
    for signal in (told.log_prob[..., 0], told.student_log_prob):
        assert math.isnan(signal[0, 3])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


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
