import json

import pytest
import torch

from align.errors import InputError
from align.text.documents import TextSample
from align.tokens.batch import encode_batch
from experiments.cli import main
from experiments.routing_room.read import room_by_domain
from experiments.routing_room.words import gain_sentence, gain_warnings
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model
from tests.experiments.small_runs import SENTENCES, small_config

TEXTS = [TextSample(text, "prose", "") for text in SENTENCES[:3]]
TEXTS += [TextSample(text, "code", "") for text in SENTENCES[3:]]


@pytest.fixture(scope="module")
def teachers(tiny_zoo):
    made = {}
    for name in ("gpt2-prose", "qwen-code", "bert-mixed"):
        loaded = load_model(str(tiny_zoo[name]), role="teacher", dtype=torch.float32)
        made[name] = LiveTeacher(name, loaded, KVCapture(loaded.model))
    return made


def bits_of(teacher, text):
    """All tokens' bits of a text whose last token ends it, and what the first holds."""
    batch = encode_batch(teacher.tokenizer, [text])
    with torch.no_grad():
        logits = teacher.loaded.model(batch.ids).logits[0]
    log_p = logits[:-1].log_softmax(-1).gather(1, batch.ids[0, 1:, None])[:, 0]
    held = batch.has_text[0, 1:]
    return float(-log_p[held].sum() / torch.tensor(2.0).log())


def test_bits_of_whole_stretches_are_the_models_own(teachers):
    decoders = {n: teachers[n] for n in ("gpt2-prose", "qwen-code")}
    room = room_by_domain(decoders, TEXTS)
    assert list(room.domains) == ["prose", "code"]
    for index, teacher in enumerate(decoders.values()):
        for domain, at_domain in room.domains.items():
            texts = [sample.text for sample in TEXTS if sample.domain == domain]
            # What begins a text is left out where one of both never predicts it.
            upper = sum(bits_of(teacher, text) for text in texts)
            bits = at_domain.teachers[index] * at_domain.characters
            assert 0.7 * upper < bits <= upper * (1 + 1e-6)
            assert at_domain.characters > 0.7 * sum(map(len, texts))


def test_the_same_teacher_twice_leaves_nothing_to_gain(teachers):
    twice = {"one": teachers["qwen-code"], "other": teachers["qwen-code"]}
    room = room_by_domain(twice, TEXTS)
    assert room.gain == pytest.approx(0, abs=1e-9)
    assert room.ceiling == pytest.approx(0, abs=1e-9)
    for at_domain in room.domains.values():
        assert at_domain.equal == pytest.approx(at_domain.teachers[0])
    assert "no router can matter much" in gain_sentence(room.gain)
    assert "no router" not in gain_sentence(0.02)


def test_domains_without_room_are_warned_of_by_name():
    def warned(gain, **domains):
        rooms = {name: {"gain": room} for name, room in domains.items()}
        return gain_warnings({"gain": gain, "domains": rooms})

    assert warned(0.05, prose=0.04, code=0.06) == []
    (alone,) = warned(0.03, prose=0.004, code=0.06)
    assert "at most 0.4% in 'prose': below 1%" in alone and "code" not in alone
    everywhere, by_domain = warned(0.003, prose=0.001, code=0.005)
    assert "no router can matter much" in everywhere
    assert "0.1% in 'prose', 0.5% in 'code'" in by_domain
    assert len(warned(0.003, prose=0.003)) == 1  # one domain says it once


def test_an_encoder_is_left_out_by_name(teachers):
    room = room_by_domain(teachers, TEXTS)
    assert room.names == ("gpt2-prose", "qwen-code")
    assert list(room.left_out) == ["bert-mixed"]
    assert "bidirectional" in room.left_out["bert-mixed"]
    few = {n: teachers[n] for n in ("gpt2-prose", "bert-mixed")}
    with pytest.raises(InputError, match=r"there are 1 \(teacher 'bert-mixed': it is"):
        room_by_domain(few, TEXTS)


def test_texts_without_a_common_stretch_are_refused(teachers):
    few = {n: teachers[n] for n in ("gpt2-prose", "qwen-code")}
    with pytest.raises(InputError, match="no held-out text has a stretch"):
        room_by_domain(few, [TextSample("", "prose", "")])


def test_the_command_says_what_routing_could_gain(tiny_zoo, tmp_path, capsys):
    config = str(small_config(tmp_path, tiny_zoo))
    assert main(["estimate", config, "--routing", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["teachers"] == ["gpt2-prose", "qwen-code"]
    (domain,) = plain["domains"].values()
    assert domain["per_stretch"] <= min(domain["equal"], domain["prequential"])
    assert 0 <= plain["gain"] <= plain["ceiling"] < 1
    assert main(["estimate", config, "--routing"]) == 0
    shown = capsys.readouterr().out
    assert f"routing can gain at most {plain['gain']:.1%}" in shown
    (name,) = plain["domains"]
    assert f"in {name!r} routing can gain at most {domain['gain']:.1%}" in shown
    assert main(["estimate", config, "--routing", "--plan"]) == 2
    assert "give one of them" in capsys.readouterr().err
