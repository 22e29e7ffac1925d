"""Logits of several models, weighed and added, against the models by hand."""

import pytest
import torch

from align.errors import InputError
from align.tokenizer_align import CausalCharIoUAligner, encode_batch
from align.views import HIDDEN, KEYS_VALUES, Teacher
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model
from teacher.own_loss import next_token_nll
from teacher.panel import TeacherPanel
from teacher.sources.combined import CombinedTeacher

TEXTS = ["the unbelievable transformation", "def read(path): pass"]


def live(path, seed):
    loaded = load_model(str(path), role="student", init_seed=seed)
    return LiveTeacher("aunt", loaded, KVCapture(loaded.model))


@pytest.fixture(scope="module")
def two(tiny_zoo):
    return [live(tiny_zoo["student"], seed) for seed in (1, 2)]


def view_of(teacher, batch):
    aligner = CausalCharIoUAligner()
    panel = TeacherPanel([teacher], aligner, aligner, outputs=["aunt"], foretold=True)
    (view,) = panel(batch)
    return view


@pytest.mark.parametrize("weights", [[0.3, 0.7], [1.0, -1.0]])
def test_its_logits_are_the_sum_of_the_members_and_its_losses_follow(two, weights):
    both = CombinedTeacher(name="aunt", members=two, weights=weights)
    batch = encode_batch(two[0].tokenizer, TEXTS)
    view = view_of(both, batch)
    ids, mask = batch.ids, batch.mask
    logits = [one.loaded.model(ids, attention_mask=mask).logits for one in two]
    by_hand = sum(w * one for w, one in zip(weights, logits, strict=True))
    head = view.output.matrix
    mine = view.output.hidden @ head.weight.T
    torch.testing.assert_close(mine[mask], by_hand[mask], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        view.foretold.log_probs,
        -next_token_nll(by_hand, ids, mask),
        atol=1e-5,
        rtol=1e-4,
    )


def test_it_is_a_teacher_that_gives_outputs_alone(two):
    both: Teacher = CombinedTeacher(name="aunt", members=two, weights=[0.5, 0.5])
    assert {KEYS_VALUES, HIDDEN} <= set(both.lacks) and both.predicts
    assert both.sizes.parameters == 2 * two[0].sizes.parameters


def test_models_of_other_vocabularies_are_refused_with_what_helps(two, tiny_zoo):
    other = live(tiny_zoo["qwen-code"], None)
    with pytest.raises(InputError, match=r"llama and qwen2.*`mtkd adapt`"):
        CombinedTeacher(name="aunt", members=[two[0], other], weights=[1, -1])
