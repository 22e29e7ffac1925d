"""A store as a teacher: what it knows, gives and lacks, beside the model it is of."""

import pytest
import torch

from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner, encode_batch
from align.views import (
    ATTENTION,
    FORETOLD,
    HEADS,
    OUTPUTS,
    OWN_LOSS,
    STATES,
    Teacher,
)
from teacher import TeacherKVExtractor
from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import load_model
from teacher.panel import LiveTeacher, TeacherPanel
from teacher.store import KVStore, StoreError, save_kvs
from teacher.stored_teacher import StoredTeacher, same_tokens

TEXTS = ["the unbelievable transformation", "def read(path): pass"]
LAYERS = {"prose": (1,), "code": (0, 1)}


@pytest.fixture(scope="module")
def live(tiny_zoo):
    def of(name, model):
        loaded = load_model(str(tiny_zoo[model]))
        return LiveTeacher(name, loaded, KVCapture(loaded.model))

    return {"prose": of("prose", "gpt2-prose"), "code": of("code", "qwen-code")}


@pytest.fixture(scope="module")
def stored(live, tmp_path_factory):
    """The first teacher, on disk."""
    teacher, path = live["prose"], tmp_path_factory.mktemp("kv") / "prose"
    kvs = TeacherKVExtractor(teacher.loaded).extract_kvs(TEXTS)
    save_kvs(kvs, path, texts=TEXTS)
    return StoredTeacher(
        name="prose",
        store=KVStore(path),
        tokenizer=teacher.tokenizer,
        kind=teacher.kind,
        family=teacher.family,
        sizes=teacher.sizes,
        causal=teacher.causal,
        learned_positions=teacher.learned_positions,
    )


@pytest.fixture(scope="module")
def student(tiny_zoo):
    return encode_batch(load_model(str(tiny_zoo["student"])).tokenizer, TEXTS)


def panel(teachers, **asked):
    return TeacherPanel(
        teachers, CharIoUAligner(), CausalCharIoUAligner(), layers=LAYERS, **asked
    )


def test_a_panel_of_a_stored_and_a_live_teacher_says_what_two_live_ones_say(
    live, stored, student
):
    mixed = panel([stored, live["code"]], outputs=["code"])(student)
    whole = panel(list(live.values()), outputs=["code"])(student)
    for one, other in zip(mixed, whole, strict=True):
        assert one.name == other.name
        mask = other.kv.mask[None, :, None, :, None]
        torch.testing.assert_close(one.kv.k * mask, other.kv.k * mask)
        torch.testing.assert_close(one.kv.v * mask, other.kv.v * mask)
        assert one.alignment.rows.equal(other.alignment.rows)
        assert one.causal.cols.equal(other.causal.cols)
    assert mixed[0].output is None and mixed[0].attention is None
    assert mixed[1].output.hidden.equal(whole[1].output.hidden)


def test_both_are_teachers_and_say_what_they_lack(live, stored):
    teachers: list[Teacher] = [stored, live["prose"]]
    known = {(t.kind, t.family, t.sizes, t.causal, t.vocabulary) for t in teachers}
    assert len(known) == 1
    assert live["prose"].predicts and live["prose"].lacks == {}
    assert not stored.predicts
    assert set(stored.lacks) == {
        *(ATTENTION, HEADS, *STATES, OUTPUTS),
        *(FORETOLD, OWN_LOSS),
    }
    with pytest.raises(ValueError, match="'prose' has no output: its store holds"):
        _ = stored.head


def test_what_is_not_stored_is_named(stored, student):
    with pytest.raises(StoreError, match=r"layers \[0, 1\].* map reads \[5\]"):
        stored.places([0, 5])
    other = encode_batch(stored.tokenizer, ["another text"])
    with pytest.raises(StoreError, match="does not hold the text 'another text'"):
        panel([stored])(other)


def test_kv_on_the_students_tokens_stay_where_they_are():
    covered = torch.tensor([[True, False, True], [False, True, True]])
    alignment = same_tokens(covered)
    assert alignment.covered.equal(covered)
    x = torch.randn(2, 2, 3, 5)
    assert alignment.apply(x).equal(x * covered[..., None])
