"""The measurements behind ``python -m experiments.bench.written``."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any, Literal

import torch

from experiments.assemble.data import Encoder, cutter_of
from experiments.bench.measure import Bar, paired_ratio, seconds, show
from experiments.bench.school import BATCH, School
from experiments.bench.step.costs import TOKENS, drawn_model, full_texts
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from experiments.writing.buffer import Buffer, Processes
from experiments.writing.openings import beginning
from experiments.writing.writer import lent
from student.config import TrainConfig
from student.loop.data_order import sample_indices
from student.loop.engine import Engine
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.writing import Greedy
from teacher.writing.config import STUDENT, WrittenConfig

LIMIT = 1.1
TEACHER = "gpt2-prose"
SETTINGS = ("output.projected_kl=1",)
WRITTEN = WrittenConfig(by=STUDENT, share=0.5, every=4, writer="greedy")


def measure(scale: str, rounds: int) -> bool:
    """Measure and print; True where all bars are kept."""
    torch.set_num_threads(1)
    student = drawn_model(scale, "student", False)
    encode = Encoder(student.tokenizer, TOKENS)
    samples = full_texts(encode, 4 * BATCH)
    buffer = _buffer(student, encode, samples)
    made = buffer.write(0)
    places = [n for n in range(WRITTEN.every * BATCH) if n % 2]
    indices = [sample_indices(len(samples), 0, n, 1)[0] for n in places]
    plain = _generate(student, [samples[index].text for index in indices])
    assert made["tokens"] == int(plain().shape[1]) * len(places) or made["ended"]
    ratio = paired_ratio(partial(buffer.write, 0), plain, rounds)
    writing = statistics.median(seconds(partial(buffer.write, 0)) for _ in range(3))
    step = _school(scale, student, encode, samples).step
    for _ in range(2):
        step()
    beside = statistics.median(seconds(step) for _ in range(5))
    each = writing / WRITTEN.every
    print(f"new tokens a second: {made['tokens'] / writing:.0f}, ", end="")
    print(f"plain generate {made['tokens'] / writing * ratio:.0f}")
    print(
        f"a step {beside:.3f} s, writing half of its texts {each:.3f} s: "
        f"{each / (each + beside):.0%} of both"
    )
    name = "a buffer / plain generate of the same tokens"
    return show([Bar(name, ratio, LIMIT)])


def measure_gathered(scale: str, rounds: int) -> None:
    """Print the same of weights that are parted, and of whole ones, under DeepSpeed."""
    per_stage = {stage: _under(scale, stage, rounds) for stage in (0, 3)}
    for stage, (tokens, took) in per_stage.items():
        print(f"ZeRO {stage}: {tokens / took:.0f} new tokens a second")
    ratio = per_stage[3][1] / per_stage[0][1]
    print(f"a buffer with gathered weights / with whole ones: {ratio:.3f}")


def _under(scale: str, stage: Literal[0, 3], rounds: int) -> tuple[int, float]:
    """New tokens of a buffer, and processor seconds in which it is gathered for and
    written."""
    student = drawn_model(scale, "student", False)
    encode = Encoder(student.tokenizer, TOKENS)
    samples = full_texts(encode, 4 * BATCH)
    buffer = _buffer(student, encode, samples)
    distiller = _school(scale, student, encode, samples).distiller
    config = TrainConfig(
        steps=1, batch_size=BATCH, engine="deepspeed", zero_stage=stage, threads=1
    )
    engine = Engine(config)
    try:
        with engine.prepared(distiller, config, 1) as prepared:

            def write() -> int:
                with prepared.whole():
                    return int(buffer.write(0)["tokens"])

            tokens = write()
            took = statistics.median(seconds(write) for _ in range(rounds))
    finally:
        engine.close()
    return tokens, took


def _buffer(student: Any, encode: Encoder, samples: Any) -> Buffer:
    """One that the student writes by itself."""
    return Buffer(
        config=WRITTEN,
        way=Greedy(),
        samples=samples,
        seed=0,
        phase_seed=0,
        first_sample=0,
        texts_per_step=BATCH,
        steps=WRITTEN.every,
        writer=partial(lent, student.model, student.tokenizer, "the student", None),
        cutter=cutter_of(encode),
        processes=Processes(rank=0, count=1, gather=lambda mine: [mine]),
    )


def _generate(student: Any, texts: list[str]) -> Any:
    """What transformers takes to go on from the same words, in one batch."""
    from transformers import GenerationConfig

    tokenizer, model = student.tokenizer, student.model
    words = [beginning(text, tokenizer, WRITTEN.opening_tokens) for text in texts]
    given = tokenizer(words, padding=True, padding_side="left", return_tensors="pt")
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=WRITTEN.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    longest = given["input_ids"].shape[1]

    @torch.no_grad()
    def generate() -> Any:
        whole = model.eval().generate(
            given["input_ids"],
            attention_mask=given["attention_mask"],
            generation_config=settings,
        )
        return whole[:, longest:]

    return generate


def _school(scale: str, student: Any, encode: Encoder, samples: Any) -> School:
    """The student with one teacher of another family."""
    loaded = drawn_model(scale, TEACHER, False)
    config = load_config(
        {"teachers": {TEACHER: {"model": f"zoo:{TEACHER}"}}, "phases": ["single"]},
        SETTINGS,
    )
    return School(
        resolve_phase(config, "single", builtin_presets()),
        load_registry(config),
        student=student,
        teachers={TEACHER: LiveTeacher(TEACHER, loaded, KVCapture(loaded.model))},
        encode=encode,
        samples=samples,
    )
