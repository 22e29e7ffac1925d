"""Teachers asked in turn: what they bring, and what is refused."""

from dataclasses import replace

import pytest
import torch

from align.causality import CausalityError, check_causal
from align.time_align import Alignment
from align.tokenizer_align import (
    CausalCharIoUAligner,
    CharIoUAligner,
    LastTokenAligner,
    encode_batch,
)
from align.tokens.byte_lengths import ByteLengths
from align.views import NonFiniteTeacherError
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import carry_attention
from teacher.loading.models import load_model
from teacher.own_loss import teacher_bits_per_char
from teacher.panel import LiveTeacher, TeacherPanel

TEXTS = ("the unbelievable transformation", "def read(path): pass", "naïve 深度 KV")


@pytest.fixture(scope="module")
def teachers(tiny_zoo):
    def live(name):
        loaded = load_model(str(tiny_zoo[name]))
        return LiveTeacher(name, loaded, KVCapture(loaded.model))

    names = ("gpt2-prose", "neox-mixed", "bert-mixed", "t5-mixed")
    return {name: live(name) for name in names}


@pytest.fixture(scope="module")
def student(tiny_zoo):
    return encode_batch(load_model(str(tiny_zoo["student"])).tokenizer, TEXTS)


def panel_of(teachers, *names, aligner=None, **asked) -> TeacherPanel:
    chosen = [teachers[n] for n in names or teachers]
    return TeacherPanel(
        chosen, aligner or CharIoUAligner(), CausalCharIoUAligner(), **asked
    )


def test_injection_refuses_an_aligner_that_shows_the_future(teachers):
    """Fact 8. Fails when the constructor's check is removed."""
    with pytest.raises(ValueError, match="CharIoUAligner lets teacher tokens show"):
        TeacherPanel(list(teachers.values()), CharIoUAligner(), CharIoUAligner())


def test_bidirectional_teachers_get_no_causal_alignment(teachers, student):
    """Fact 8. Fails when ``_causal_alignment`` does not look at ``capture.causal``."""
    for aligner in (CharIoUAligner(), LastTokenAligner()):
        views = panel_of(teachers, aligner=aligner)(student)
        assert [view.name for view in views if view.causal is None] == [
            "bert-mixed",
            "t5-mixed",
        ]


def test_causal_alignments_pass_the_check_and_the_others_do_not(teachers, student):
    for view in panel_of(teachers, "gpt2-prose", "neox-mixed")(student):
        own = encode_batch(teachers[view.name].tokenizer, TEXTS)
        check_causal(view.causal, student, own)
        with pytest.raises(ValueError, match="future leaks"):
            check_causal(view.alignment, student, own)


class SaysItIsCausal(CharIoUAligner):
    """Shows the future and denies it."""

    def __init__(self):
        object.__setattr__(self, "causal", True)


@pytest.mark.parametrize("use", ["losses too", "injection only"])
def test_an_aligners_word_for_being_causal_is_not_believed(teachers, student, use):
    """Fails when ``_causal_alignment`` does not check what it hands out."""
    liar = SaysItIsCausal()
    aligner = liar if use == "losses too" else CharIoUAligner()
    panel = TeacherPanel([teachers["gpt2-prose"]], aligner, liar)
    with pytest.raises(CausalityError, match=r"^teacher 'gpt2-prose': .*future leaks"):
        panel(student)
    bidirectional = TeacherPanel([teachers["bert-mixed"]], aligner, liar)
    assert bidirectional(student)[0].causal is None  # never injected


def test_a_causal_aligner_serves_both_purposes(teachers, student):
    panel = panel_of(teachers, "gpt2-prose", aligner=LastTokenAligner())
    (view,) = panel(student)
    assert view.causal is view.alignment


def test_views_hold_the_teachers_own_kv_without_gradient(teachers, student):
    (view,) = panel_of(teachers, "neox-mixed")(student)
    live = teachers["neox-mixed"]
    own = encode_batch(live.tokenizer, TEXTS)
    with torch.no_grad():
        expected = live.capture(own.ids, own.mask).kv
    torch.testing.assert_close(view.kv.k, expected.k)
    torch.testing.assert_close(view.kv.v, expected.v)
    assert not view.kv.k.requires_grad
    assert view.alignment.shape == (*student.ids.shape, own.ids.shape[1])


def test_only_the_needed_layers_come(teachers, student):
    panel = panel_of(teachers, "gpt2-prose", layers={"gpt2-prose": (1,)})
    whole = panel_of(teachers, "gpt2-prose")(student)[0].kv
    torch.testing.assert_close(panel(student)[0].kv.k, whole.k[1:])


def test_own_loss_comes_from_decoders_only_and_when_asked(teachers, student):
    views = panel_of(teachers, own_loss=True)(student)
    known = {view.name: view.bits_per_char for view in views}
    assert known["bert-mixed"] is None and known["t5-mixed"] is None
    live = teachers["gpt2-prose"]
    own = encode_batch(live.tokenizer, TEXTS)
    with torch.no_grad():
        logits = live.capture(own.ids, own.mask, logits=True).logits
    torch.testing.assert_close(known["gpt2-prose"], teacher_bits_per_char(logits, own))
    quiet = panel_of(teachers)(student)
    assert all(view.bits_per_char is None for view in quiet)


def test_attention_lands_on_the_students_past_and_sums_to_one_or_zero(
    teachers, student
):
    rows = torch.tensor([[1, 3, 4], [2, 3, 5], [1, 2, 3]])
    views = panel_of(teachers, "gpt2-prose", "bert-mixed", attention=True)(
        student, rows
    )
    for view in views:
        assert view.attention.shape == (2, 3, 3, student.ids.shape[1])
        total = view.attention.sum(-1)
        assert bool((((total - 1).abs() < 1e-4) | (total == 0)).all())
        future = torch.arange(student.ids.shape[1]) > rows[..., None]
        assert float(view.attention[:, future].abs().sum()) == 0
    assert panel_of(teachers, "gpt2-prose")(student, rows)[0].attention is None


def test_attention_mass_is_shared_by_characters_and_rescaled():
    # student a|bc|d, teacher ab|cd: 'ab' feeds a and half of bc, 'cd' the rest
    pairs = Alignment(
        rows=torch.tensor([0, 1, 1, 2]),
        cols=torch.tensor([0, 0, 1, 1]),
        weights=torch.tensor([1.0, 0.5, 0.5, 1.0]),
        shape=(1, 3, 2),
        shared=torch.tensor([1.0, 1.0, 1.0, 1.0]),
    )
    attention = torch.tensor([[[[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]]]])
    rows = torch.tensor([[2, 1, 2]])
    known = torch.tensor([[True, True, False]])
    found = carry_attention(attention, pairs, rows, known)[0, 0]
    expected = torch.tensor(
        [[0.3, 0.3 + 0.2, 0.2], [0.3 / 0.8, 0.5 / 0.8, 0.0], [0.0, 0.0, 0.0]]
    )
    torch.testing.assert_close(found, expected)


def test_a_teacher_gone_bad_is_named_with_layer_and_text(tiny_zoo, student):
    loaded = load_model(str(tiny_zoo["gpt2-prose"]))
    live = LiveTeacher("sick", loaded, KVCapture(loaded.model))
    with torch.no_grad():
        loaded.model.transformer.h[1].ln_1.weight.fill_(float("nan"))
    panel = TeacherPanel([live], CharIoUAligner(), CausalCharIoUAligner())
    with pytest.raises(NonFiniteTeacherError, match=r"'sick' .* layer 1 on the text"):
        panel(student)


def test_all_teachers_run_though_one_is_not_finite(tiny_zoo, teachers, student):
    """Fails where the rest is left out: other processes would wait for theirs."""
    loaded = load_model(str(tiny_zoo["gpt2-prose"]))
    sick = LiveTeacher("sick", loaded, KVCapture(loaded.model))
    with torch.no_grad():
        loaded.model.transformer.h[1].ln_1.weight.fill_(float("nan"))
    calls = []
    later = teachers["neox-mixed"]
    body = later.capture.model.base_model
    hook = body.register_forward_pre_hook(lambda *_: calls.append(1))
    panel = TeacherPanel([sick, later], CharIoUAligner(), CausalCharIoUAligner())
    with pytest.raises(NonFiniteTeacherError, match="'sick'"):
        panel(student)
    hook.remove()
    assert calls


def test_a_text_longer_than_a_teachers_positions_names_the_teacher(teachers, student):
    words = " ".join(f"x{i}y" for i in range(3000))
    spans = torch.zeros(1, 1, 2, dtype=torch.int64)
    one = torch.zeros(1, 1, dtype=torch.int64)
    long = replace(student, ids=one, mask=one == 0, spans=spans, texts=(words,))
    with pytest.raises(ValueError, match=r"teacher 'gpt2-prose'.*positions"):
        panel_of(teachers, "gpt2-prose")(long)


def test_every_teacher_is_read_by_its_own_table_of_byte_lengths(
    teachers, student, monkeypatch
):
    from teacher import live_teacher as module

    seen = []
    encode = module.encode_batch

    def watched(tokenizer, texts, **settings):
        seen.append((tokenizer, settings["byte_lengths"]))
        return encode(tokenizer, texts, **settings)

    monkeypatch.setattr(module, "encode_batch", watched)
    panel_of(teachers)(student)
    for tokenizer, table in seen:
        fresh = ByteLengths.of(tokenizer)
        assert (table is None) == (fresh is None)
        if table is not None:
            assert (table.lengths == fresh.lengths).all()
    assert [table is not None for _, table in seen] == [True, False, False, False]
