import pytest

from align.text.documents import TextSample
from align.tokenizer_align import CharIoUAligner
from align.tokens.lost_text import LostText
from experiments.assemble.data import Encoder
from experiments.record.run_dir import RunDir
from experiments.report.layout.markdown import block_text
from experiments.report.teachers import teacher_sections
from experiments.run.coverage import SAMPLES, Reading, how_teachers_read

LOST = LostText(
    characters=200,
    blanks=3,
    dropped=4,
    unknown=60,
    rewritten=16,
    examples=("深 unknown",),
)


def samples(*texts):
    return [TextSample(text, "d", str(i)) for i, text in enumerate(texts)]


@pytest.fixture
def words(words_tokenizer):
    """A tokenizer of the words one, two and three; others are unknown."""
    from experiments.commands.viz import load_tokenizer

    return load_tokenizer(str(words_tokenizer))


def test_each_teacher_s_coverage_and_losses_are_counted(words, tiny_llama):
    from experiments.commands.viz import load_tokenizer

    encode = Encoder(load_tokenizer(str(tiny_llama)), 32)
    texts = samples("one two", "three four", *["one"] * SAMPLES)
    found = how_teachers_read(
        texts, encode, {"words": Encoder(words, None)}, CharIoUAligner()
    )["words"]
    assert found.lost.characters == 7 + 10 + 3 * (SAMPLES - 2)
    assert found.lost.unknown == len("four")
    assert found.coverage == 201 / 203  # no token of words holds a blank


def test_a_line_says_it_all_and_an_alarm_only_what_is_low():
    reading = Reading(0.982, LOST)
    assert reading.line("t5") == (
        "teacher 't5' reaches 98.2% of the student's tokens; of 200 characters 60 "
        "unknown, 16 rewritten, 4 dropped, 3 blanks left out (深 unknown)"
    )
    assert reading.alarm("t5", 0.5) == ""
    told = reading.alarm("t5", 0.7)
    assert told.startswith("teacher 't5' tells only 68% of the characters (align.min")
    low = Reading(0.3, LOST).alarm("t5", 0.5)
    assert low.startswith("teacher 't5' reaches only 30% of the student's tokens")


def test_the_report_shows_readings_and_what_adapters_let_through(tmp_path):
    fit = {"k_variance_kept": [0.914, 1.0], "v_variance_kept": [0.5, 0.25], "k_r2": [0]}
    phases = [
        {"name": "dual", "fit": {"t5": fit}, "coverage": {"t5": 0.98}},
        {"name": "z", "fit": {"t5": {"variance_k": [0.8], "variance_v": [0.7]}}},
        {"name": "none"},
    ]
    teachers = {"t5": {"model": "m", "reading": Reading(0.982, LOST).plain()}}
    run = RunDir(tmp_path, [], {"phases": phases, "teachers": teachers})
    text = "\n".join(
        block_text(block) for part in teacher_sections(run) for block in part.blocks
    )
    assert "- t5 reaches 98.2% of the student's tokens; of 200 characters 60" in text
    assert "| phase | teacher | coverage | layer 0 | layer 1 |" in text
    assert "| dual | t5 | 98.0% | 91% / 50% | 100% / 25% |" in text
    assert "| z | t5 | – | 80% / 70% |" in text
    bare = RunDir(tmp_path, [], {"teachers": {"t5": {"model": "m"}}})
    assert [len(part.blocks) for part in teacher_sections(bare)] == [1]
