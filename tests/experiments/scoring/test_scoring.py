"""Texts are measured as the models' own numbers say, once, and kept."""

import math

import numpy as np
import pytest
import torch

from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch, encode_batch
from align.views import ForetoldTokens
from experiments.assemble.data import Encoder
from experiments.scoring import ScoreKeeper, Scorer, kept
from experiments.scoring.per_text import divergence, entropy, spread
from experiments.scoring.scorer import batches_of
from student.checkpoint import CheckpointError
from student.evaluate import bits_and_chars, text_bits
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model
from teacher.output_head import vocabulary_digest
from teacher.own_loss import teacher_bits_per_char
from tests.experiments.small_runs import SENTENCES

SAMPLES = [
    TextSample(f"{SENTENCES[n % 5]} {'Again. ' * (n % 3)}", "ab"[n % 2], f"t:{n}")
    for n in range(40)
]
EVERY = frozenset(
    {"student_bits", "student_entropy", "teacher_bits", "teacher_entropy"}
    | {"divergence", "disagreement"}
)


class Alone:
    """What an engine of one process does."""

    rank, world_size, is_main = 0, 1, True

    def gather(self, value):
        return [value]

    def from_main(self, make):
        return make()

    def together(self, work):
        work()


@pytest.fixture(scope="module")
def scorer(tiny_zoo):
    torch.manual_seed(0)
    student = load_model(tiny_zoo["student"], dtype="float32")
    teachers = {}
    for name in ("gpt2-prose", "student", "bert-mixed"):
        loaded = load_model(str(tiny_zoo[name]), role="teacher", dtype=torch.float32)
        teachers[name] = LiveTeacher(name, loaded, KVCapture(loaded.model))
    return Scorer(
        encode=Encoder(student.tokenizer, 96, learn_end=True),
        student=KVCapture(student.model),
        vocabulary=vocabulary_digest(student.tokenizer),
        teachers=teachers,
        needs=EVERY,
    )


def characters(text, width=1):
    """A text in tokens of so many characters each."""
    ends = [*range(width, len(text), width), len(text)]
    spans = torch.tensor([[[max(0, e - width), e] for e in ends]])
    shape = (1, len(ends))
    return TokenBatch(
        torch.zeros(shape).long(), torch.ones(shape).bool(), spans, (text,)
    )


def test_entropy_and_divergence_are_numpys():
    batch = characters("abcd")
    flat = torch.zeros(1, 4, 8)
    # three of four characters are predicted, each with log2(8) bits
    assert entropy(flat, batch).tolist() == pytest.approx([3.0])
    torch.manual_seed(1)
    mine, theirs = torch.randn(1, 4, 8), torch.randn(1, 4, 8)

    def probabilities(x):
        powers = np.exp(x[0, :-1].double().numpy())
        return powers / powers.sum(-1, keepdims=True)

    p, q = probabilities(mine), probabilities(theirs)
    bits = -(p * np.log2(p)).sum() / 3
    assert float(entropy(mine, batch)) == pytest.approx(bits, rel=1e-5)
    apart = (p * np.log2(p / q)).sum() / 3
    got = float(divergence(mine, theirs, batch, batch))
    assert got == pytest.approx(apart, rel=1e-5)
    other = TokenBatch(batch.ids + 1, batch.mask, batch.spans, batch.texts)
    assert math.isnan(divergence(mine, theirs, batch, other))
    assert math.isnan(entropy(flat[:, :1], characters("a")))


def test_of_a_conversation_the_characters_that_are_learned_are_counted():
    said = ["well?", "yes", "a long question between", "no"]
    roles = ["user", "assistant"] * 2
    messages = [
        {"role": role, "content": content}
        for role, content in zip(roles, said, strict=True)
    ]
    chat = Conversation(messages, learned=[1, 3])
    batch = characters(chat)
    flat = torch.zeros(1, len(chat), 8)
    bits, chars = bits_and_chars(flat, batch)
    assert entropy(flat, batch).tolist() == pytest.approx((bits / chars).tolist())
    assert entropy(flat, batch).tolist() == pytest.approx([3.0])
    assert float(divergence(flat, flat, batch, batch)) == 0


def test_disagreement_is_the_spread_over_common_stretches():
    single, double = characters("abcde"), characters("abcde", 2)
    # ends common to both: 2, 4 and 5; the first stretch holds a token that nobody
    # predicts. Left are "cd" and "e", in nats -3 and -1, and -1 and -1.
    first = ForetoldTokens(single, torch.tensor([[0.0, -9, -1, -2, -1]]))
    second = ForetoldTokens(double, torch.tensor([[0.0, -1, -1]]))
    assert float(spread([first, second], 1)) == pytest.approx(1 / 3 / math.log(2))
    assert float(spread([first, first], 1)) == 0
    assert math.isnan(spread([first], 1))


def test_columns_are_what_models_say_alone(scorer):
    texts = [sample.text for sample in SAMPLES[:5]]
    columns = scorer(texts)
    assert set(columns) == EVERY | {"length"}
    own = text_bits(scorer.student, scorer.encode, SAMPLES[:5])
    expected = [bits / chars for bits, chars in own]
    assert columns["student_bits"].tolist() == pytest.approx(expected, rel=1e-5)
    for place, name in enumerate(("gpt2-prose", "student")):
        teacher = scorer.teachers[name]
        batch = encode_batch(teacher.tokenizer, texts)
        with torch.no_grad():
            mask = batch.mask.long()
            logits = teacher.loaded.model(batch.ids, attention_mask=mask).logits
        bits = teacher_bits_per_char(logits, batch)
        heard = columns["teacher_bits"][:, place].tolist()
        assert heard == pytest.approx(bits.tolist(), rel=1e-4)
        entropies = entropy(logits, batch).tolist()
        heard = columns["teacher_entropy"][:, place].tolist()
        assert heard == pytest.approx(entropies, rel=1e-4)
    # the student is its own teacher's twin, the other one reads other tokens
    assert columns["divergence"][:, 1].abs().max() < 1e-6
    assert columns["divergence"][:, 0].isnan().all()
    assert all(columns[n][:, 2].isnan().all() for n in ("teacher_bits", "divergence"))
    assert bool((columns["disagreement"] > 0).all())


def test_a_stopped_pass_goes_on_and_any_processes_measure_the_same(
    scorer, tmp_path, monkeypatch
):
    few = Scorer(
        encode=scorer.encode,
        student=scorer.student,
        vocabulary=scorer.vocabulary,
        teachers={},
        needs=frozenset({"student_bits"}),
    )
    monkeypatch.setattr(kept, "PART", 1)
    assert len(batches_of(SAMPLES)) == 3

    def keeper(name, key="k", engine=None):
        return ScoreKeeper(folder=tmp_path / name, key=key, engine=engine or Alone())

    asked = []

    def once(texts):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(texts)
        return few(texts)

    once.teachers = {}
    with pytest.raises(KeyboardInterrupt):
        keeper("a").scored(once, SAMPLES)
    asked[:] = asked[:1]  # the third part alone is left to do
    whole = keeper("a").scored(once, SAMPLES)
    assert len(asked) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    bits = whole.columns["student_bits"]
    own = text_bits(few.student, few.encode, SAMPLES)
    assert bits.tolist() == pytest.approx([b / c for b, c in own], rel=1e-5)

    class First(Alone):
        world_size = 2

        def gather(self, value):
            other = batches_of(SAMPLES)[1]
            return [value, {1: few([SAMPLES[i].text for i in other])}]

    both = keeper("b", engine=First()).scored(few, SAMPLES)
    assert torch.equal(both.columns["student_bits"], bits)
    with pytest.raises(CheckpointError, match="of other texts, models or settings"):
        keeper("a", key="other").scored(few, SAMPLES)
    file = tmp_path / "a" / "scores.safetensors"
    file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(CheckpointError, match=r"scores\.safetensors"):
        keeper("a").read(SAMPLES)
    with pytest.raises(CheckpointError, match="there are no scores"):
        keeper("c").read(SAMPLES)
