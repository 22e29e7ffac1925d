"""A teacher that another process holds says what it says here, bit for bit.

The two processes are threads of this one, connected as processes are.
"""

import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from align.errors import InputError, MachineError, RunError
from align.tokenizer_align import (
    CausalCharIoUAligner,
    CharIoUAligner,
    encode_batch,
)
from align.tokens.pairs import encode_pairs
from align.views import KEYS_VALUES, STATES, Injection
from teacher.capture.kv_capture import KVCapture
from teacher.capture.pair_capture import PairCapture
from teacher.distant.serving import Desk, answer_all
from teacher.distant.teacher import DistantTeacher, asked, facts_of
from teacher.distant.wire import Line, Message, pack, unpack
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model
from teacher.panel import TeacherPanel
from tests.seq2seq import TEXTS as TARGETS
from tests.seq2seq import save

TEXTS = ("the unbelievable transformation", "def read(path): pass", "naïve 深度 KV")
NAMES = ("gpt2-prose", "neox-mixed", "bert-mixed")


@pytest.fixture(scope="module")
def sides(tiny_zoo):
    """The same teachers here and there, and the line between."""
    here, loads = {}, []

    def opened(question):
        loads.append(question["name"])
        loaded = load_model(str(tiny_zoo[question["name"]]))
        return LiveTeacher(question["name"], loaded, KVCapture(loaded.model))

    store, lines = dist.HashStore(), {}

    def join(rank):
        group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=60))
        lines[rank] = Line(group, 1 - rank)
        if rank == 1:
            answer_all([lines[1]], opened, lambda base, width, scale: base * scale)

    there = threading.Thread(target=join, args=(1,))
    there.start()
    join(0)
    distant = {}
    for name in NAMES:
        here[name] = opened({"name": name})
        for _ in range(2):  # as each process that trains asks
            question = Message({"what": "open", "key": name, "name": name})
            facts = asked(lines[0], 7, question).head["facts"]
        loaded = load_model(str(tiny_zoo[name]), weightless=True)
        assert {p.device.type for p in loaded.model.parameters()} == {"meta"}
        distant[name] = DistantTeacher.of(
            name, loaded, facts, line=lines[0], rank=7, device=torch.device("cpu")
        )
    assert sorted(loads) == sorted(2 * NAMES)  # once here, once there
    yield here, distant, lines[0]
    lines[0].leave()
    there.join(timeout=30)
    assert not there.is_alive()


def parts(view):
    every = {"k": view.kv.k, "v": view.kv.v, "attention": view.attention}
    every |= {"heads": view.attention_heads, "bits": view.bits_per_char, **view.states}
    if view.foretold is not None:
        every["foretold"] = view.foretold.log_probs
    if view.output is not None:
        every |= {"hidden": view.output.hidden, "head": view.output.head.weight}
    return every


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bf16"])
def test_all_that_a_phase_can_ask_is_the_same_bit_for_bit(sides, tiny_zoo, autocast):
    here, distant, _ = sides
    student = encode_batch(load_model(str(tiny_zoo["student"])).tokenizer, TEXTS)
    rows = torch.tensor([[1, 3], [0, 2], [1, 1]])
    views = [
        TeacherPanel(
            list(teachers.values()),
            CharIoUAligner(),
            CausalCharIoUAligner(),
            layers={"gpt2-prose": (1, 0), "neox-mixed": (1,), "bert-mixed": (0,)},
            outputs=("gpt2-prose", "neox-mixed"),
            attention=True,
            heads=True,
            states=STATES,
            own_loss=True,
            foretold=True,
            autocast=autocast,
        )(student, rows)
        for teachers in (here, distant)
    ]
    for one, other in zip(*views, strict=True):
        expected, got = parts(one), parts(other)
        assert expected.keys() == got.keys()
        for name, tensor in expected.items():
            if tensor is None:
                assert got[name] is None
                continue
            assert torch.equal(got[name], tensor), (one.name, name)
            assert got[name].dtype == tensor.dtype


def test_what_is_known_of_it_is_the_same(sides):
    here, distant, _ = sides
    for name in NAMES:
        one, other = here[name], distant[name]
        for fact in ("kind", "family", "sizes", "causal", "predicts", "vocabulary"):
            assert getattr(one, fact) == getattr(other, fact), fact
        assert one.learned_positions == other.learned_positions
        assert one.lacks == other.lacks and one.weight_types == other.weight_types
    texts = ["the router learns which teacher helps", "def f(x): return x"]
    importance = [
        side["neox-mixed"].layer_importance(texts) for side in (here, distant)
    ]
    assert torch.equal(*importance)
    ids = torch.tensor([[5, 6, 7]])
    whole = [
        side["gpt2-prose"].capture(ids, ids > 0, layers=(0,), logits=True).logits
        for side in (here, distant)
    ]
    assert torch.equal(*whole)


def test_what_goes_wrong_there_is_said_here(sides):
    _, distant, line = sides
    capture = distant["gpt2-prose"].capture
    most = capture.max_tokens
    ids = torch.ones(1, most + 1, dtype=torch.int64)
    with pytest.raises(InputError, match=f"{most}"):
        capture(ids, ids > 0)
    with pytest.raises(RunError, match="process 7: KeyError: 'nobody'"):
        asked(line, 7, Message({"what": "head", "key": "nobody"}))
    kv = capture(ids[:, :2], ids[:, :2] > 0, layers=(0,)).kv
    with pytest.raises(InputError, match="nothing is injected"):
        capture(ids, ids > 0, inject=Injection(kv, (0,), kv.mask, torch.ones(1)))


def test_what_shows_as_numbers_are_brought_to_the_cpu_is_said_too(monkeypatch, capsys):
    """A GPU's failures; a thread that died of one would leave its student waiting."""

    class Failed(dict):
        def items(self):
            raise RuntimeError("CUDA error: device-side assert triggered")

    desk = Desk(opened=None, scaler=None)
    monkeypatch.setattr(Desk, "_head", lambda self, question: Message({}, Failed()))
    kind, text = unpack(desk.answer(Message({"what": "head"}))).head["error"]
    assert (kind, text[:10]) == ("RuntimeError", "CUDA error")
    assert "device-side" in capsys.readouterr().err


@pytest.mark.slow
def test_beside_pairs_an_encoder_decoder_is_asked_from_inside_its_decoder(tmp_path):
    """Its source and target are read as pairs here, and run as pairs there."""
    folder = str(save(tmp_path / "t5"))
    loaded = load_model(folder)
    here = LiveTeacher("t5", loaded, PairCapture(loaded.model), beside_pairs=True)
    desk = Desk(opened=lambda _: here, scaler=None)

    class Short:
        def ask(self, message):
            return unpack(desk.answer(unpack(pack(message))))

    line = Short()
    question = Message({"what": "open", "key": "t5"})
    distant = DistantTeacher.of(
        "t5",
        load_model(folder, weightless=True),
        asked(line, 1, question).head["facts"] | {"key": "t5"},
        line=line,
        rank=1,
        device=torch.device("cpu"),
        beside_pairs=True,
    )
    assert distant.lacks == here.lacks and distant.predicts and here.predicts
    student = encode_pairs(here.tokenizer, TARGETS, here.capture.start, learn_end=True)
    views = [
        TeacherPanel(
            [teacher], CharIoUAligner(), CausalCharIoUAligner(), outputs=("t5",)
        )(student)[0]
        for teacher in (here, distant)
    ]
    for name, tensor in parts(views[0]).items():
        if tensor is not None:
            assert torch.equal(parts(views[1])[name], tensor), name
    other = DistantTeacher.of(
        "gpt",
        load_model(folder, weightless=True),
        facts_of(here) | {"key": "gpt", "start": None},
        line=line,
        rank=1,
        device=torch.device("cpu"),
        beside_pairs=True,
    )
    assert KEYS_VALUES in other.lacks


def test_longer_texts_are_read_alike_and_it_is_extended_once(sides):
    """Last, because it changes the model."""
    here, distant, _ = sides
    one, other = here["neox-mixed"], distant["neox-mixed"]

    def scaler(base, width, scale):
        return base * scale

    length = one.loaded.model.config.max_position_embeddings
    assert one.extend(2 * length, scaler, False)
    for _ in range(2):
        assert other.extend(2 * length, scaler, False)
    ids = torch.arange(12)[None] % 50
    read = [side.capture(ids, ids >= 0).kv.v for side in (one, other)]
    assert torch.equal(*read)
    with pytest.raises(RunError, match="was made to read"):
        other.extend(3 * length, scaler, False)


def test_a_process_that_is_gone_is_named_with_what_to_do():
    class Closed:
        def send(self, tensors, to, tag):
            raise RuntimeError("Connection closed by peer")

    with pytest.raises(MachineError, match=r"process 3, .* gone .* same command"):
        asked(Line(Closed(), 1), 3, Message({"what": "head", "key": ""}))
