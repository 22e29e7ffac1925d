"""What travels between processes comes out as it went in."""

from threading import Event, Thread

import pytest
import torch

from teacher.distant.wire import (
    HERE,
    LEAVE,
    Line,
    LineGoneError,
    Message,
    pack,
    unpack,
)


def test_tensors_come_out_with_their_numbers_types_and_strides():
    torch.manual_seed(0)
    sent = {
        "float32": torch.randn(2, 3, 5),
        "turned": torch.randn(2, 3, 5, 4).transpose(1, 3),
        "round": torch.randn(2, 3, 4).permute(2, 0, 1),  # not its own inverse
        "bfloat16": torch.randn(7).bfloat16(),
        "bool": torch.tensor([[True], [False]]),
        "int64": torch.tensor(2**40),
        "nothing": torch.empty(0, 4, 0),
        "nan": torch.tensor([float("nan"), float("-inf")]),
    }
    message = unpack(pack(Message({"what": "a", "texts": ["深度"]}, sent)))
    assert message.head == {"what": "a", "texts": ["深度"]}
    assert message.tensors.keys() == sent.keys()
    for name, tensor in sent.items():
        got = message.tensors[name]
        torch.testing.assert_close(got, tensor, rtol=0, atol=0, equal_nan=True)
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
        assert got.stride() == tensor.stride() or not tensor.numel()
        first = message.tensors["float32"].data_ptr()
        assert (got.data_ptr() - first) % 64 == 0 or not tensor.numel()


def test_a_part_of_a_larger_tensor_travels_without_the_rest():
    whole = torch.arange(10_000.0).view(100, 100)
    packed = pack(Message({}, {"part": whole[:3, ::50]}))
    assert len(packed) < 1000
    assert unpack(packed).tensors["part"].tolist() == [[0, 50], [100, 150], [200, 250]]
    turned = unpack(pack(Message({}, {"part": whole[:3, ::50].T}))).tensors["part"]
    assert turned.tolist() == [[0, 100, 200], [50, 150, 250]] and turned.is_contiguous()


def test_who_is_gone_is_told_from_what_went_wrong():
    class Closed:
        def send(self, tensors, to, tag):
            place, peer = "[/w/pytorch/pair.cc:537] ", "[127.0.0.1]:1"
            why = ". This is typically caused by a remote worker hanging. Check"
            raise RuntimeError(f"{place}Connection closed by peer {peer}{why}\nGLHF")

    with pytest.raises(LineGoneError, match=r"^Connection closed by peer \S+:1$"):
        Line(Closed(), 1).send(pack(Message({})))


class Wire:
    """Keeps what is sent; gives an answer once somebody lets it."""

    def __init__(self):
        self.sent, self.asked, self.answers = [], Event(), Event()
        self.coming = []

    def send(self, tensors, to, tag):
        self.sent += tensors
        return Done

    def recv(self, tensors, of, tag):
        self.asked.set()
        assert self.answers.wait(10)
        if not self.coming:
            packed = pack(Message({"answered": True}))
            self.coming = [torch.tensor([len(packed)]), packed]
        tensors[0].copy_(self.coming.pop(0))
        return Done

    @property
    def said(self):
        return [unpack(packed).head for packed in self.sent[1::2]]


class Done:
    def wait():
        pass


def test_who_leaves_waits_for_what_another_thread_asked():
    wire = Wire()
    line = Line(wire, 1)
    threads = [
        Thread(target=line.ask, args=(Message({"what": "look"}),)),
        Thread(target=line.leave),
    ]
    threads[0].start()
    assert wire.asked.wait(10)
    threads[1].start()
    threads[1].join(0.05)
    assert wire.said == [{"what": "look"}]
    wire.answers.set()
    for thread in threads:
        thread.join(10)
    assert wire.said == [{"what": "look"}, {"what": LEAVE}]


def test_who_is_silent_says_that_it_is_there_but_never_between_question_and_answer():
    wire = Wire()
    line = Line(wire, 1)
    line.greet()
    asking = Thread(target=line.ask, args=(Message({"what": "look"}),))
    asking.start()
    assert wire.asked.wait(10)
    line.greet()  # who asks is there
    wire.answers.set()
    asking.join(10)
    line.leave()
    line.greet()  # nobody listens any more
    assert [said["what"] for said in wire.said] == [HERE, "look", LEAVE]


def test_how_long_nothing_was_heard_is_said():
    class Silent:
        def recv(self, tensors, of, tag):
            raise RuntimeError("[/w/pair.cc:1] Timed out waiting 90000ms for recv op")

    with pytest.raises(LineGoneError, match=r"nothing was heard of it for 0:01:30"):
        Line(Silent(), 1).receive()


def test_who_was_interrupted_while_it_waited_leaves_without_a_word():
    """The other end would wait for its answer to be taken, and this one for that."""

    class Interrupted(Wire):
        def recv(self, tensors, of, tag):
            raise KeyboardInterrupt

    line = Line(Interrupted(), 1)
    with pytest.raises(KeyboardInterrupt):
        line.ask(Message({"what": "look"}))
    line.leave()
    assert line.group.said == [{"what": "look"}]
