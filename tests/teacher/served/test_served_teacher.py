"""A teacher behind a real HTTP server is the live one to rounding, or says why not."""

import time

import pytest
import torch

from align.errors import InputError
from align.tokenizer_align import CausalCharIoUAligner, encode_batch
from align.views import FORETOLD, KEYS_VALUES, OUTPUTS, Teacher
from teacher.capture.kv_capture import KVCapture
from teacher.panel import LiveTeacher, TeacherPanel
from teacher.served.client import ServerGoneError
from teacher.sources.server import Server
from tests.teacher.served.conftest import NAME

TEXTS = ["the unbelievable transformation", "def read(path): pass", "a word", "café"]
K = 6


class Opening:
    name = "aunt"


@pytest.fixture
def opened(served, tiny_zoo, tmp_path):
    """Open the teacher with options; None in place of the server's address offline."""

    def of(**options):
        usual = {
            "tokenizer": str(tiny_zoo["gpt2-prose"]),
            "served_as": NAME,
            "top_k": K,
            "cache": str(tmp_path / "served"),
            "budget_s": 20.0,
        }
        return Server(served.url, **(usual | options)).open(Opening())

    return of


def panel(teacher):
    aligner = CausalCharIoUAligner()
    return TeacherPanel([teacher], aligner, aligner, outputs=["aunt"], foretold=True)


@pytest.fixture
def student(tiny_zoo, loaded):
    return encode_batch(loaded.tokenizer, TEXTS)


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "echo of ids"])
def test_it_says_what_the_live_teacher_says_to_rounding(
    dialect, opened, student, loaded, served
):
    served.tells_ids = dialect == "echo of ids"
    teacher: Teacher = opened(dialect=dialect.split()[0])
    assert {OUTPUTS, FORETOLD}.isdisjoint(teacher.lacks) and teacher.predicts
    assert "output.projected_kl" in teacher.lacks[KEYS_VALUES]
    (view,) = panel(teacher)(student)
    live = LiveTeacher("aunt", loaded, KVCapture(loaded.model))
    (other,) = panel(live)(student)
    assert view.kv is None and view.alignment.rows.equal(other.alignment.rows)
    torch.testing.assert_close(view.foretold.log_probs, other.foretold.log_probs)
    for named, exact in in_text(view, other, student):
        top = exact.topk(K)
        torch.testing.assert_close(
            named.gather(1, top.indices), top.values, atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(named.exp().sum(1), torch.ones(len(named)))


def in_text(view, live, student):
    """Log-probabilities of both at every place after which something came."""
    exact = (live.output.hidden @ live.output.head.weight.T).log_softmax(-1)
    for row in range(len(TEXTS)):
        length = int(student.mask[row].sum()) - 1
        named = view.output.head.logits(view.output.hidden[row, :length])
        yield named, exact[row, :length]


def test_an_echo_of_spellings_names_those_that_are_one_token_s_alone(
    opened, student, loaded
):
    (view,) = panel(opened(dialect="echo"))(student)
    (other,) = panel(LiveTeacher("aunt", loaded, KVCapture(loaded.model)))(student)
    torch.testing.assert_close(view.foretold.log_probs, other.foretold.log_probs)
    tokenizer = loaded.tokenizer
    spelled = tokenizer.batch_decode([[one] for one in range(len(tokenizer))])
    shared = torch.tensor([spelled.count(text) > 1 for text in spelled])
    assert shared.any()  # bytes that are no character by themselves
    for named, exact in in_text(view, other, student):
        top = exact.topk(K)
        apart = (named.gather(1, top.indices) - top.values).abs() > 1e-5
        assert not (apart & ~shared[top.indices]).any()
        torch.testing.assert_close(named.exp().sum(1), torch.ones(len(named)))


def test_an_answer_in_another_dialect_is_told_with_what_to_choose(opened, served):
    served.vllm = lambda ids, k: served.echo(ids, k, False)
    with pytest.raises(InputError, match=r"without prompt_logprobs.*options\.dialect"):
        opened()


def test_what_llama_cpp_answers_is_refused_in_every_dialect(opened, served):
    # Its server, built in October 2026, takes echo, logprobs and prompt_logprobs, and
    # tells of the token that it made up alone.
    likely = {"id": 7042, "token": " Paris", "bytes": [32, 80], "logprob": -0.2589}
    content = [{**likely, "top_logprobs": [likely]}]
    for dialect, logprobs in (("vllm", None), ("echo", {"content": content})):
        choice = {"text": " Paris", "index": 0, "logprobs": logprobs}
        served.answer = lambda path, body, said=choice: {"choices": [said]}
        with pytest.raises(InputError, match=r"without .*llama\.cpp.*options\.dialect"):
            opened(dialect=dialect)


def test_what_was_answered_is_never_asked_again_and_answers_offline(
    opened, student, served
):
    online = panel(opened())(student)[0].output.hidden
    before = list(served.asked)
    assert len(set(before)) == len(before) == len(TEXTS) + 1  # the probe
    again = panel(opened())(student)[0].output.hidden
    assert served.asked[len(before) :] == before[:1]  # the probe, and no text
    offline = opened(offline=True)
    assert again.equal(online)
    assert panel(offline)(student)[0].output.hidden.equal(online)
    other = encode_batch(offline.tokenizer, ["another text"])
    with pytest.raises(InputError, match="no answer to the text 'another text'"):
        panel(offline)(other)


@pytest.mark.parametrize("fault", [429, 500, "gone", "half", "cut"])
def test_it_outlasts_bursts_of_what_servers_do(opened, student, served, fault):
    teacher = opened()
    served.faults.extend([fault] * 3)
    (view,) = panel(teacher)(student)
    assert view.output is not None and not served.faults
    assert len(served.asked) == 1 + 3 + len(TEXTS)


def test_a_server_that_is_slow_or_gone_is_waited_for_within_the_budget(
    opened, student, served
):
    teacher = opened(budget_s=0.6, answer_s=0.2, requests=1)
    first = encode_batch(teacher.tokenizer, TEXTS[:1])
    panel(teacher)(first)
    served.faults.extend([1.0] * 20)
    began = time.monotonic()
    with pytest.raises(ServerGoneError, match=r"no whole answer within 0\.6 s") as why:
        panel(teacher)(student)
    assert time.monotonic() - began < 10
    served.faults.clear()
    served.faults.extend(["later"] * 20)  # in an hour
    with pytest.raises(ServerGoneError, match=r"no whole answer within 0\.6 s"):
        panel(teacher)(student)
    assert time.monotonic() - began < 20
    assert "asks for nothing that was answered" in str(why.value)
    served.faults.clear()
    panel(teacher)(first)  # kept


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(opened, student, served):
    teacher = opened(budget_s=0.5, answer_s=0.5)
    served.faults.extend(["slowly"] * 20)
    began = time.monotonic()
    with pytest.raises(ServerGoneError, match=r"no whole answer within 0\.5 s"):
        panel(teacher)(student)
    assert time.monotonic() - began < 30  # each would take a minute


def test_no_more_requests_are_in_flight_than_asked(opened, student, served):
    teacher = opened(requests=2)
    served.faults.extend([0.05] * 4)
    panel(teacher)(student)
    assert 1 <= served.most <= 2


def test_a_damaged_answer_on_disk_is_asked_again(opened, student, served, tmp_path):
    teacher = opened()
    (view,) = panel(teacher)(student)
    file = sorted((tmp_path / "served").glob("*/*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:40])
    asked = len(served.asked)
    assert panel(teacher)(student)[0].output.hidden.equal(view.output.hidden)
    assert len(served.asked) == asked + 1


def test_another_model_or_tokenizer_is_refused_before_any_text(
    opened, served, tiny_zoo
):
    with pytest.raises(InputError, match="serves tiny, not 'other'; name one of these"):
        opened(served_as="other")
    served.shift = 1
    with pytest.raises(InputError, match=r"spells token .* options\.tokenizer"):
        opened()


def test_texts_go_where_the_address_says_and_no_answer_is_without_bound(
    opened, served, student, monkeypatch
):
    teacher = opened()
    served.faults.append("elsewhere")
    with pytest.raises(InputError, match="answers 307"):
        panel(teacher)(student)
    monkeypatch.setattr("teacher.served.client.LARGEST", 1000)
    with pytest.raises(InputError, match=r"answers with more than 1,000 bytes"):
        panel(teacher)(student)


def test_the_key_goes_to_the_server_and_into_no_message(
    opened, served, student, monkeypatch
):
    monkeypatch.setenv("TEST_SERVER_KEY", "secret-words")
    teacher = opened(key_variable="TEST_SERVER_KEY")
    assert {*served.keys} == {"Bearer secret-words"}
    served.faults.extend([401])
    with pytest.raises(InputError, match="answers 401") as why:
        panel(teacher)(student)
    assert "secret" not in str(why.value) and "secret" not in repr(teacher)
    monkeypatch.delenv("TEST_SERVER_KEY")
    with pytest.raises(InputError, match="the environment has no TEST_SERVER_KEY"):
        opened(key_variable="TEST_SERVER_KEY")


@pytest.mark.parametrize(
    ("address", "words"),
    [("localhost:8000", "is no address"), ("http://me:pw@host/v1", "ends up in logs")],
)
def test_an_address_that_cannot_be_meant_is_refused(address, words):
    with pytest.raises(InputError, match=words):
        Server(address, tokenizer="x")
