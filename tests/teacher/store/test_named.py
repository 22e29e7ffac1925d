"""Next-token outputs on disk: what comes back, in how many bytes, of which version."""

import json

import pytest
import torch

from align.tokens.named_head import NamedTokens
from teacher.store import Encoding, KVStore, StoreError
from teacher.store.encoding import bytes_per_sample
from teacher.store.manifest import PLAN, OutputShape, read_sealed, seal
from teacher.store.manifest import Plan as StorePlan
from teacher.store.named import NamedCodec
from teacher.store.upkeep import verify
from tests.teacher.store.conftest import (
    OUTPUTS,
    TOP_K,
    VOCABULARY,
    make_plan,
    stored,
    text,
)


def some(vocabulary, k, tokens=50):
    draw = torch.Generator().manual_seed(k)
    logits = 4 * torch.randn(tokens, vocabulary, generator=draw)
    ids = torch.randint(vocabulary, (tokens,), generator=draw)
    return NamedTokens.of(logits, ids, k)


@pytest.mark.parametrize(("vocabulary", "k"), [(2, 2), (1000, 32), (151_936, 7)])
@pytest.mark.parametrize("kept", ["int8", "float16"])
def test_ids_come_back_exactly_and_log_probabilities_to_the_stated_error(
    vocabulary, k, kept
):
    codec = NamedCodec(OutputShape(vocabulary=vocabulary, top_k=k, log_probs=kept))
    named = some(vocabulary, k)
    back = codec.decode(codec.encode(named))
    assert back.ids.equal(named.ids)
    apart = named.log_probs[:, :1] - named.log_probs
    half = 2.0**-11 * (named.log_probs.abs() + apart[:, -1:]) + 1e-7
    step = torch.zeros(())
    if kept == "int8":  # half a step of the root, times the slope of the square
        widest = apart[:, -1:]
        step = (apart / widest.clamp_min(1e-7)).sqrt() * widest / 255
        step = step + widest / (4 * 255**2)
    assert bool(((back.log_probs - named.log_probs).abs() <= half + step).all())
    for one, other in ((back.came, named.came), (back.rest, named.rest)):
        assert bool(((one - other).abs() <= 2.0**-11 * other.abs() + 1e-7).all())


def test_fewer_tokens_than_asked_and_no_token_at_all_come_back():
    codec = NamedCodec(OutputShape(vocabulary=9, top_k=3))
    named = NamedTokens(
        ids=torch.tensor([[8, 2, -1]]),
        log_probs=torch.tensor([[-0.5, -3.25, -torch.inf]]),
        came=torch.tensor([-1.0]),
        rest=torch.tensor([-2.0]),
    )
    back = codec.decode(codec.encode(named))
    assert back.ids.equal(named.ids)
    assert back.log_probs[0, :2].tolist() == [-0.5, -3.25]
    assert (float(back.came), float(back.rest)) == (-1.0, -2.0)
    assert codec.decode(codec.encode(codec.nothing())).ids.shape == (0, 3)


def test_sixty_four_tokens_of_a_large_vocabulary_take_216_bytes():
    codec = NamedCodec(OutputShape(vocabulary=151_936, top_k=64))
    assert bytes_per_sample(codec, 1, 1000) == 1000 * (64 * 18 // 8 + 64 + 8)


@pytest.mark.parametrize("zstd", [None, 1])
@pytest.mark.parametrize("layers", [3, 0])
def test_a_store_gives_outputs_beside_keys_and_values_or_alone(maker, zstd, layers):
    if zstd is not None:
        pytest.importorskip("zstandard")
    encoding = Encoding(name="float32", zstd=zstd)
    shape = make_plan().shape.model_copy(update={"layers": layers})
    one = maker(encoding=encoding, shape=shape, **OUTPUTS)
    one.run()
    store = KVStore(one.path)
    codec = NamedCodec(store.plan.outputs)
    for number in (0, 5, 10):
        got = store.read_sample(store.find(text(number)), named=True)
        want = stored(number)
        assert got.k.equal(want.k[:layers]) and got.named.ids.equal(want.named.ids)
        assert got.named.came.equal(codec.decode(codec.encode(want.named)).came)
        alone = store.read_sample(store.find(text(number)), (), ())
        assert alone.named is None and alone.k.numel() == 0
    numbers = [store.find(text(number)) for number in (5, 0, 10, 5)]
    together = store.read_named(numbers)
    each = [store.read_sample(number, named=True).named for number in numbers]
    for name in ("ids", "log_probs", "came", "rest"):
        one_by_one = torch.cat([getattr(named, name) for named in each])
        assert getattr(together, name).equal(one_by_one)
    assert verify(one.path) == []


def test_a_plan_without_outputs_is_sealed_as_versions_without_them_did(maker):
    one = maker()
    one.run()
    content = json.loads((one.path / PLAN).read_bytes())
    assert content["version"] == 2 and "outputs" not in content
    assert (
        seal(read_sealed(one.path / PLAN, StorePlan)) == (one.path / PLAN).read_bytes()
    )


def test_a_plan_with_outputs_is_of_a_version_that_others_refuse(maker):
    plan = maker(**OUTPUTS).plan
    assert json.loads(seal(plan))["version"] == 3
    assert plan.outputs.vocabulary == VOCABULARY and plan.outputs.top_k == TOP_K
    with pytest.raises(ValueError, match="outputs belong to version 3"):
        make_plan(outputs=plan.outputs)


def test_another_version_and_other_outputs_are_named(maker):
    one = maker(**OUTPUTS)
    one.open()
    more = one.plan.outputs.model_copy(update={"top_k": 6})
    with pytest.raises(StoreError, match=r"outputs\.top_k: stored 5, config 6"):
        maker(version=3, outputs=more).open()
    file = one.path / PLAN
    file.write_bytes(file.read_bytes().replace(b'"version": 3', b'"version": 4'))
    with pytest.raises(StoreError, match=r"version 4 .* reads 2 and 3: extract again"):
        read_sealed(file, StorePlan)
