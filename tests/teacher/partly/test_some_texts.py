"""Teachers that are asked about some texts of a batch."""

import pytest
import torch

from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner, encode_batch
from align.views import NonFiniteTeacherError
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model
from teacher.panel import TeacherPanel
from teacher.partly.some_texts import only_texts

TEXTS = ("the unbelievable transformation", "def read(path): pass", "naïve 深度 KV")
NAMES = ("gpt2-prose", "qwen-code", "bert-mixed")
CHOSEN = torch.tensor([[True, False, True], [False, False, True], [True, False, True]])
"""Two texts of three for the first teacher, none for the second, all for the third."""


class Counting(KVCapture):
    """Counts the texts that a model runs on."""

    texts = 0

    def __call__(self, ids, mask, **asked):
        self.texts += len(ids)
        return super().__call__(ids, mask, **asked)


@pytest.fixture(scope="module")
def teachers(tiny_zoo):
    def live(name):
        loaded = load_model(str(tiny_zoo[name]))
        return LiveTeacher(name, loaded, Counting(loaded.model))

    return [live(name) for name in NAMES]


@pytest.fixture(scope="module")
def batch(tiny_zoo):
    return encode_batch(load_model(str(tiny_zoo["student"])).tokenizer, TEXTS)


@pytest.fixture(scope="module")
def rows(batch):
    return (batch.mask.sum(1, keepdim=True) * torch.tensor([0.3, 0.9])).long()


@pytest.fixture(scope="module")
def panel(teachers):
    return TeacherPanel(
        teachers,
        CharIoUAligner(),
        CausalCharIoUAligner(),
        outputs=NAMES[:2],
        attention=True,
        heads=True,
        states=("hidden",),
        own_loss=True,
        foretold=True,
    )


@pytest.fixture(scope="module")
def asked(panel, teachers, batch, rows):
    """The views of a choice, and on how many texts each model ran."""
    _ = [teacher.head for teacher in teachers[:2]]  # which is tried on a word
    before = [teacher.capture.texts for teacher in teachers]
    views = panel(batch, rows, panel.read(batch, CHOSEN))
    ran = [t.capture.texts - count for t, count in zip(teachers, before, strict=True)]
    return views, ran


def test_a_model_runs_on_its_own_texts_alone(asked):
    assert asked[1] == [2, 0, 3]


def test_of_its_texts_a_teacher_says_what_it_says_of_them_alone(
    asked, panel, batch, rows
):
    chosen = torch.tensor([0, 2])
    view = asked[0][0]
    alone = panel(only_texts(batch, chosen), rows[chosen], names=NAMES[:1])[0]
    torch.testing.assert_close(view.kv.k[:, chosen], alone.kv.k, rtol=0, atol=0)
    torch.testing.assert_close(view.kv.v[:, chosen], alone.kv.v, rtol=0, atol=0)
    torch.testing.assert_close(view.attention[:, chosen], alone.attention)
    torch.testing.assert_close(
        view.attention_heads[:, :, chosen], alone.attention_heads
    )
    torch.testing.assert_close(view.output.hidden[chosen], alone.output.hidden)
    torch.testing.assert_close(view.states["hidden"][:, chosen], alone.states["hidden"])
    torch.testing.assert_close(view.bits_per_char[chosen], alone.bits_per_char)
    said = view.foretold.log_probs[chosen]
    torch.testing.assert_close(said, alone.foretold.log_probs)
    for mine, theirs in (
        (view.alignment, alone.alignment),
        (view.causal, alone.causal),
    ):
        torch.testing.assert_close(mine.dense()[chosen], theirs.dense())


def test_of_other_texts_it_covers_nothing_and_says_zeros(asked):
    for view in asked[0][:2]:
        others = torch.tensor([1]) if view.name == NAMES[0] else torch.arange(3)
        for pairs in (view.alignment, view.causal):
            assert not pairs.covered[others].any()
        assert not view.kv.mask[others].any()
        assert not view.kv.k[:, others].any() and not view.kv.v[:, others].any()
        if view.name == NAMES[0]:
            assert not view.output.tokens.mask[others].any()
            assert not view.output.hidden[others].any()


def test_who_is_asked_about_all_says_bitwise_what_it_says_without_a_choice(
    asked, panel, batch, rows
):
    whole = panel(batch, rows)[2]
    assert torch.equal(asked[0][2].kv.k, whole.kv.k)
    assert torch.equal(asked[0][2].alignment.weights, whole.alignment.weights)


def test_a_text_that_is_not_finite_is_met_by_whom_it_is_for_alone(
    panel, teachers, batch, monkeypatch
):
    def broken(capture, ids, mask, **asked):
        captured = KVCapture.__call__(capture, ids, mask, **asked)
        if capture is teachers[0].capture:
            captured.kv.k[:, -1] = torch.nan
        return captured

    monkeypatch.setattr(Counting, "__call__", broken)
    with pytest.raises(NonFiniteTeacherError, match=r"gpt2-prose.*naïve 深度 KV"):
        panel(batch, None, panel.read(batch, CHOSEN))
    spared = CHOSEN & torch.tensor([False, True, True])
    assert panel(batch, None, panel.read(batch, spared))[0].name == NAMES[0]
