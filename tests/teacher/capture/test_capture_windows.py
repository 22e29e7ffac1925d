import pytest
import torch

from align.views import Injection
from teacher.capture.kv_capture import KVCapture
from teacher.capture.windows import Windows

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def long_batch():
    """Ids (3, 21) with 21, 11 and 0 real tokens, and their mask."""
    ids = torch.randint(3, 61, (3, 21), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(21) < torch.tensor([[21], [11], [0]])
    return torch.where(mask, ids, 0), mask


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "deepseek_v3"])
def test_each_token_comes_from_the_first_window_that_holds_it(
    make_model, long_batch, name
):
    model = make_model(name)
    ids, mask = long_batch
    capture = KVCapture(model, windows=Windows(tokens=10, stride=4))
    assert capture.max_tokens is None
    alone = KVCapture(model)
    # windows 0..10, 4..14, 8..18, 12..21 by hand, and the tokens each one gives
    parts = [(0, 10, 0), (4, 14, 10), (8, 18, 14), (12, 21, 18)]
    with torch.no_grad():
        found = capture(ids, mask, logits=True, hidden=True)
        for start, stop, first in parts:
            own = alone(ids[:1, start:stop], mask[:1, start:stop], logits=True)
            given = slice(first - start, stop - start)
            for name_ in ("k", "v"):
                whole = getattr(found.kv, name_)[:, :1, :, first:stop]
                part = getattr(own.kv, name_)[..., given, :]
                torch.testing.assert_close(whole, part, **CLOSE)
            part = own.logits[:, given]
            torch.testing.assert_close(found.logits[:1, first:stop], part, **CLOSE)
        short = alone(ids[1:2, 4:11], mask[1:2, 4:11], hidden=True)
    # the second text ends within the second window: its last token stands in no other
    torch.testing.assert_close(found.kv.k[:, 1, :, 10], short.kv.k[:, 0, :, 6], **CLOSE)
    torch.testing.assert_close(found.hidden[1, 10], short.hidden[0, 6], **CLOSE)
    assert found.kv.mask.equal(mask)
    assert found.kv.k.isfinite().all()


def test_a_text_that_fits_is_read_at_once(make_model, long_batch):
    model = make_model("llama")
    ids, mask = long_batch
    with torch.no_grad():
        whole = KVCapture(model)(ids, mask).kv.k
        fits = KVCapture(model, windows=Windows(21, 1))(ids, mask).kv.k
        cut = KVCapture(model, windows=Windows(20, 20))(ids, mask).kv.k
    assert fits.equal(whole)
    torch.testing.assert_close(cut[:, :, :, :20], whole[:, :, :, :20], **CLOSE)
    assert (cut[1, 0, :, 20] - whole[1, 0, :, 20]).abs().max() > 1e-3


def test_windows_as_wide_as_what_a_token_sees_change_nothing(make_model, long_batch):
    # two layers of a window of 4 tokens see 3 + 3 tokens back
    ids, mask = long_batch
    model = make_model("mistral")
    with torch.no_grad():
        whole = KVCapture(model)(ids[:1], mask[:1])
        windows = KVCapture(model, windows=Windows(10, 4))(ids[:1], mask[:1])
    torch.testing.assert_close(windows.kv.k, whole.kv.k, **CLOSE)
    torch.testing.assert_close(windows.kv.v, whole.kv.v, **CLOSE)


def test_attention_rows_come_from_the_row_s_window(make_model, long_batch):
    model = make_model("gpt2")
    ids, mask = long_batch
    rows = torch.tensor([[0, 9, 10, 20], [3, 4, 10, 10], [0, 0, 0, 0]])
    capture = KVCapture(model, windows=Windows(10, 4))
    with torch.no_grad():
        captured = capture(ids, mask, attention_rows=rows, heads=True)
        found = captured.attention
        last = KVCapture(model)(
            ids[:1, 12:], mask[:1, 12:], attention_rows=torch.tensor([[8]])
        ).attention
    assert found.shape == (2, 3, 4, 21)
    torch.testing.assert_close(found[:, :2].sum(-1), torch.ones(2, 2, 4))
    torch.testing.assert_close(found[:, 0, 3, 12:], last[:, 0, 0], **CLOSE)
    assert found[:, 0, 3, :12].abs().max() == 0
    assert found[:, 0, 2, :4].abs().max() == 0  # 10 is read in the window from 4 on
    torch.testing.assert_close(captured.attention_heads.mean(1), found)


def test_gradients_flow_through_windows(make_model, long_batch):
    model = make_model("gpt2")
    kv = KVCapture(model, windows=Windows(10, 5))(*long_batch).kv
    kv.v.sum().backward()
    assert model.transformer.wte.weight.grad.abs().sum() > 0


def test_what_windows_cannot_do_is_said(make_model, long_batch):
    ids, mask = long_batch
    model = make_model("gpt2")
    with pytest.raises(ValueError, match="10 tokens every 11: give 1 <= stride"):
        Windows(10, 11)
    with pytest.raises(ValueError, match=r"windows of 64 tokens .* has 32 positions"):
        KVCapture(model, windows=Windows(64, 32))
    capture = KVCapture(model, windows=Windows(10, 5))
    with pytest.raises(ValueError, match="begin on the left; pad on the right"):
        capture(ids, mask.flip(1))
    with torch.no_grad():
        inject = Injection(capture(ids, mask).kv, [0, 1], mask, torch.ones(2))
    with pytest.raises(ValueError, match="windows of 10; inject into shorter texts"):
        capture(ids, mask, inject=inject)
