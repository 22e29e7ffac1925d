import copy
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from align.errors import InputError
from align.text.documents import TextSample
from experiments.cli import main
from experiments.config.measuring import SamplesConfig
from experiments.record.run_dir import RunDir, read_run
from experiments.report.page import report_text
from experiments.report.samples import one_line
from experiments.writing.drawing import Drawing
from experiments.writing.samples import (
    PROMPT_TOKENS,
    first_words,
    samples_of,
    written_now,
)
from experiments.writing.writer import Writer
from teacher.loading.models import load_model
from tests.experiments.small_runs import small_config


def texts(**by_domain):
    return [
        TextSample(text, domain, f"{domain}:{index}")
        for domain, some in by_domain.items()
        for index, text in enumerate(some)
    ]


def test_prompts_are_first_words_of_each_domain_in_turn(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)  # one token a byte
    assert PROMPT_TOKENS == 12
    some = texts(
        prose=["  one two three four five six", "seven eight nine ten", "eleven"],
        code=["def f(x): return x"],
    )
    # half of 27, 18 and 20 bytes, 12 at most, back to where a word ends
    words = ["one two", "def f(x):", "seven"]
    assert first_words(some, tokenizer, 3) == words
    assert first_words(some, tokenizer, 2) == words[:2]
    assert first_words(some, tokenizer, 0) == []


def test_a_prompt_never_ends_inside_a_character(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    # 12 bytes are four characters, 11 of 22 three and two thirds of one
    assert first_words(texts(a=["深度学习深度学习深度学习"]), tokenizer, 1) == [
        "深度学习"
    ]
    assert first_words(texts(a=["a深度学习深度"]), tokenizer, 1) == ["a深度学"]


def test_a_student_that_writes_while_it_trains_is_afterwards_as_it_was(tiny_llama):
    """Its generation settings are saved with it, and end its next sample, too."""
    loaded = load_model(str(tiny_llama))
    settings = loaded.model.generation_config
    settings.eos_token_id, settings.top_p = [5, 6], 0.5
    loaded.model.train()
    wanted = SamplesConfig(max_new_tokens=2)
    for _ in range(2):
        written_now(wanted, ["The"], loaded.tokenizer, loaded.model, 0)
        assert loaded.model.generation_config is settings
        assert (settings.eos_token_id, settings.top_p) == ([5, 6], 0.5)
        assert all(module.training for module in loaded.model.modules())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_zoo):
    """The same run with samples and without."""
    folder = tmp_path_factory.mktemp("samples")
    config = small_config(folder, tiny_zoo)
    for name, prompts in (("told", "[The router, def align]"), ("silent", "0")):
        words = [f"run.name={name}", f"samples.prompts={prompts}"]
        rest = ["samples.max_new_tokens=5", "train.learning_rate=0.05"]
        assert main(["train", str(config), *words, *rest]) == 0
    return folder


@pytest.mark.slow
def test_a_run_keeps_what_its_student_writes_before_and_after(runs, tiny_zoo):
    samples = read_run(runs / "told").summary["samples"]
    assert [sample["prompt"] for sample in samples] == ["The router", "def align"]
    assert all(set(sample) == {"prompt", "before", "after"} for sample in samples)
    for moment, folder in (
        ("before", tiny_zoo["student"]),
        ("after", runs / "told" / "student"),
    ):
        loaded = load_model(folder, dtype="float32")
        writer = Writer(loaded.model, loaded.tokenizer, str(folder))
        for sample in samples:
            ids = writer.ids(sample["prompt"])
            (written,) = writer.write([ids], Drawing(max_new_tokens=5))
            assert sample[moment] == written.text
    assert read_run(runs / "silent").summary["samples"] == []


def test_before_is_the_first_student_and_after_the_last(tiny_llama):
    loaded = load_model(tiny_llama, dtype="float32")
    other = copy.deepcopy(loaded.model)
    for parameter in other.parameters():
        parameter.data.neg_()
    models = {False: loaded.model, True: other}
    settings = SamplesConfig(prompts=["one two"], max_new_tokens=8)
    (sample,) = samples_of(settings, [], loaded.tokenizer, models.__getitem__)
    assert sample["before"] != sample["after"]
    for after, moment in ((False, "before"), (True, "after")):
        writer = Writer(models[after], loaded.tokenizer, moment)
        (written,) = writer.write([writer.ids("one two")], Drawing(max_new_tokens=8))
        assert sample[moment] == written.text


def test_what_is_drawn_depends_on_the_seed_alone_and_the_report_says_so(tiny_llama):
    loaded = load_model(tiny_llama, dtype="float32")
    settings = SamplesConfig(prompts=["one two"], max_new_tokens=8, temperature=1.5)

    def drawn(seed):
        return samples_of(settings, [], loaded.tokenizer, lambda _: loaded.model, seed)

    first = drawn(0)
    assert drawn(0) == first != drawn(1)
    summary = {"samples": first, "samples_temperature": 1.5}
    text = report_text(RunDir(Path("run"), summary=summary))
    assert "same words, each token drawn at a temperature of 1.5." in text


@pytest.mark.slow
def test_samples_change_no_loss(runs):
    def losses(name):
        rows = (runs / name / "metrics.jsonl").read_text().splitlines()
        lines = [json.loads(row) for row in rows]
        return [line["loss"] for line in lines if line["kind"] == "train"]

    assert losses("told") == losses("silent") != []
    summaries = [read_run(runs / name).summary for name in ("told", "silent")]
    assert summaries[0]["phases"][0]["bpc"] == summaries[1]["phases"][0]["bpc"]


@pytest.mark.slow
def test_the_report_shows_samples_and_no_text_closes_their_fence(runs):
    run = read_run(runs / "told")
    run.summary["samples"] = [{"prompt": "a", "before": "```", "after": "b\nc"}]
    page = report_text(run)
    assert "````text\na|```\n````" in page
    assert "a|b\nc\n" in page
    assert "writes" not in report_text(read_run(runs / "silent"))


@pytest.mark.slow
def test_the_end_of_a_run_prints_samples_in_a_line_each(runs, capsys):
    assert main(["report", str(runs / "told"), "--no-figures"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("The router"))
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["before", "after"]
    assert one_line("a\nb\x1b" + "c" * 200, 6) == "a⏎b�c…"


def test_an_empty_prompt_is_refused_by_its_place():
    with pytest.raises(InputError, match=r"samples\.prompts\[1\] is empty"):
        SamplesConfig(prompts=["a", ""])
    with pytest.raises(InputError, match=r"samples\.prompts is -1"):
        SamplesConfig(prompts=-1)
