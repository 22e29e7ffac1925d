import pytest
import torch

from teacher.store import Encoding, encoding
from teacher.store.encoding import Codec, measure_constants

NAMES = [("float32", None), ("bfloat16", None), ("int8", None), ("int4", None)]
NAMES.append(("lowrank", 6))


def features(tokens=130, width=23, layers=3):
    """Channels of different scale and mean, the first token many times larger."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(layers, tokens, width, generator=generator)
    scale = torch.rand(width, generator=torch.Generator().manual_seed(0)) + 0.05
    x = (x + 2) * scale
    x[:, :1] *= 30
    return x


def codec(name, rank=None, width=23):
    constants = measure_constants(features(400, width)[:, 1:], rank)
    return Codec(Encoding(name=name, rank=rank), width, constants)


def relative_error(name, rank=None, x=None):
    x = features() if x is None else x
    own = codec(name, rank)
    back = own.decode(own.encode(x), None).float()
    return float((back - x)[:, 1:].norm() / (x - x.mean(1, keepdim=True))[:, 1:].norm())


@pytest.mark.parametrize(("name", "rank"), NAMES)
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 96, 97, 130, 500])
def test_every_length_has_the_announced_fields_and_comes_back(name, rank, tokens):
    own, x = codec(name, rank), features(tokens)
    got = own.encode(x)
    said = own.fields(tokens)
    assert {n: (t.dtype, *t.shape[1:]) for n, t in got.items()} == {
        n: (f.dtype, f.rows, f.width) for n, f in said.items()
    }
    assert own.decode(got, None).shape == x.shape


def test_float32_is_exact_and_bfloat16_rounds_once():
    x = features()
    assert codec("float32").decode(codec("float32").encode(x), None).equal(x)
    back = codec("bfloat16").decode(codec("bfloat16").encode(x), None)
    assert back.equal(x.bfloat16())


def test_errors_are_those_of_their_step():
    # A step of range / 256 leaves range / 256 / sqrt(12) uniform error; Gaussian
    # channels over about 100 tokens span 5 standard deviations.
    assert relative_error("int8") < 0.008
    assert 0.03 < relative_error("int4") < 0.12
    assert relative_error("bfloat16") < 0.006  # relative to x, whose mean is larger


def test_a_sink_does_not_coarsen_its_neighbours():
    own, x = codec("int8"), features()
    calm = x.clone()
    calm[:, 0] = calm[:, 1]
    with_sink = own.decode(own.encode(x), None)[:, 1:]
    without = own.decode(own.encode(calm), None)[:, 1:]
    assert with_sink.equal(without)


def test_smaller_steps_are_taken_where_they_leave_less(monkeypatch):
    chosen = relative_error("int4")
    monkeypatch.setitem(encoding._NARROWER, 4, 0)  # never cut off an extreme
    assert chosen < 0.99 * relative_error("int4")


def test_lowrank_keeps_the_strongest_directions():
    generator = torch.Generator().manual_seed(3)
    plane = torch.randn(2, 6, 23, generator=generator)
    x = torch.randn(2, 300, 6, generator=generator) @ plane
    constants = measure_constants(x, 6)
    own = Codec(Encoding(name="lowrank", rank=6), 23, constants)
    back = own.decode(own.encode(x), None)
    assert (back - x).norm() / x.norm() < 0.01  # six directions are all there are
    gram = constants.basis.transpose(1, 2) @ constants.basis
    torch.testing.assert_close(gram, torch.eye(6).expand(2, 6, 6), atol=1e-5, rtol=0)


def test_single_layers_decode_as_among_all():
    for name, rank in NAMES:
        own, x = codec(name, rank), features()
        got = own.encode(x)
        chosen = torch.tensor([2, 0])
        some = own.decode({n: t[chosen] for n, t in got.items()}, chosen)
        assert some.equal(own.decode(got, None)[chosen])


def test_what_an_encoding_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="outside what int8 holds"):
        codec("int8").encode(features() * 1e7)
    with pytest.raises(ValueError, match="does not fit into float16"):
        codec("float16").encode(features() * 1e5)
    with pytest.raises(ValueError, match="needs constants of that width"):
        Codec(Encoding(name="int8"), 23)
    with pytest.raises(ValueError, match="rank 24 for features of width 23"):
        measure_constants(features(), 24)
