"""Hidden states after every layer are the model's own, whatever its family."""

import pytest
import torch

from align.errors import InputError
from align.views import HIDDEN
from teacher.capture.kv_capture import KVCapture
from teacher.capture.windows import Windows
from tests.teacher.capture.test_kv_capture import DECODERS, ENCODERS, PARTLY, SHARED

GIVES = [*DECODERS, *PARTLY, *ENCODERS, *SHARED]
UNLIKE = ["gemma3n"]
"""Four streams side by side, which the embeddings begin."""


@pytest.mark.edges
@pytest.mark.parametrize("name", [name for name in GIVES if name not in UNLIKE])
def test_states_are_the_library_s_after_each_layer_that_has_keys(
    make_model, batch, name
):
    model, (ids, mask) = make_model(name), batch
    capture = KVCapture(model)
    with torch.no_grad():
        found = capture(ids, mask, hidden=True, states=(HIDDEN,))
        own = model.base_model(
            input_ids=ids, attention_mask=mask.long(), output_hidden_states=True
        ).hidden_states
    assert len(found.states[HIDDEN]) == capture.num_layers
    for number, state in zip(capture.layer_numbers, found.states[HIDDEN], strict=True):
        torch.testing.assert_close(state[mask], own[number + 1][mask])
    if capture.layer_numbers[-1] + 2 == len(own):
        assert torch.equal(found.states[HIDDEN][-1], found.hidden)


def test_only_asked_layers_come_in_the_asked_order(make_model, batch):
    capture = KVCapture(make_model("llama"))
    with torch.no_grad():
        every = capture(*batch, states=(HIDDEN,))
        some = capture(*batch, layers=[1, 0], states=(HIDDEN,))
        none = capture(*batch, layers=[1, 0])
    assert torch.equal(some.states[HIDDEN], every.states[HIDDEN][[1, 0]])
    assert not none.states and every.hidden is None


def test_nothing_runs_to_the_end_where_no_states_are_asked_for(make_model, batch):
    model = make_model("llama")
    ended = []
    model.base_model.norm.register_forward_hook(lambda *_: ended.append(1))
    capture = KVCapture(model)
    ended.clear()
    with torch.no_grad():
        capture(*batch, layers=[0])
        assert not ended
        capture(*batch, layers=[0], states=(HIDDEN,))
    assert ended


def test_a_stream_of_another_shape_is_refused(make_model, batch):
    capture = KVCapture(make_model("gemma3n"))
    with (
        torch.no_grad(),
        pytest.raises(InputError, match=r"no hidden states of one wid"),
    ):
        capture(*batch, states=(HIDDEN,))


def test_states_of_a_long_text_come_from_its_windows(make_model):
    model = make_model("llama")
    ids = torch.randint(3, 61, (1, 21), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids, dtype=torch.bool)
    capture, alone = (
        KVCapture(model, windows=Windows(tokens=10, stride=4)),
        KVCapture(model),
    )
    with torch.no_grad():
        found = capture(ids, mask, states=(HIDDEN,)).states[HIDDEN]
        first = alone(ids[:, :10], mask[:, :10], states=(HIDDEN,)).states[HIDDEN]
        last = alone(ids[:, 12:], mask[:, 12:], states=(HIDDEN,)).states[HIDDEN]
    torch.testing.assert_close(found[:, :, :10], first)
    torch.testing.assert_close(found[:, :, 18:], last[:, :, 6:], atol=1e-5, rtol=1e-4)
