"""Teachers from the student: what is refused, and how those that move do."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from align.errors import InputError
from teacher.sources import of_student
from teacher.sources.base import PhaseStart
from teacher.sources.of_student import Average, EarlierPhase, Lagging, StudentStart


def start(earlier=(), kept=(), begins=None):
    folders = {name: Path(name) for name in earlier}
    return PhaseStart(
        earlier=folders, kept=kept, begins=begins, texts_per_step=8, texts=32
    )


@pytest.mark.parametrize(
    ("source", "rest", "words"),
    [
        (StudentStart, "end", "student:start is the one"),
        (EarlierPhase, "-2", "phase:-1 for the one before"),
        (EarlierPhase, "", "phase:NAME"),
        (Average, "0.9", r"options\.decay=0\.9"),
        (Lagging, "100", "checkpoint:-100"),
        (Lagging, "-0", "checkpoint:-N"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(source, rest, words):
    with pytest.raises(InputError, match=words):
        source(rest)


def test_a_phase_teaches_those_that_come_after_it():
    last, named = EarlierPhase("-1"), EarlierPhase("dual")
    assert last.absent([]) and not last.absent(["dual"])
    assert "'dual' does not run" in named.absent(["single"])
    assert not named.absent(["dual", "single"])


def test_the_last_phase_is_the_last_that_was_kept_and_a_name_is_that_phase():
    after = start(["a", "b", "c"], kept=["a", "b"])  # c was rolled back
    assert EarlierPhase("-1").reads(after) == [Path("b")]
    assert EarlierPhase("c").reads(after) == [Path("c")]
    assert EarlierPhase("*").reads(after) == [Path("a"), Path("b")]
    assert EarlierPhase("-1").reads(start(["a"])) == []  # the run's start


def test_all_earlier_students_weigh_equally_or_by_one_over_their_bits():
    after = start(["a", "b", "c"], kept=["a", "b"])
    assert EarlierPhase("*").shares(after) == [0.5, 0.5]
    measured = replace(after, measured={"a": 2.0, "b": 3.0})
    # 1/2 and 1/3 of 5/6
    shares = EarlierPhase("*", weights="performance").shares(measured)
    assert shares == pytest.approx([0.6, 0.4])
    with pytest.raises(InputError, match="beside one student"):
        EarlierPhase("-1", weights="performance")


def test_a_residual_has_a_teacher_before_any_phase_has_run():
    assert not EarlierPhase("-1", residual_of="folder").absent([])
    assert EarlierPhase("*").absent([])


def test_a_residual_is_the_model_less_every_student_that_was_kept(monkeypatch):
    monkeypatch.setattr(
        of_student, "_sum", lambda _, *given: list(zip(*given, strict=True))
    )
    opening = SimpleNamespace(name="rest", load=str, student=lambda f=None: f)
    after = start(["a", "b", "c"], kept=["a", "c"])
    source = EarlierPhase("*", residual_of="whole")
    assert source.open(opening) == [("whole", 1.0), (None, -1.0)]
    kept = [("whole", 1.0), (Path("a"), -1.0), (Path("c"), -1.0)]
    assert source.begin(opening, after) == kept
    every = EarlierPhase("*", weights="performance")
    measured = replace(after, measured={"a": 2.0, "c": 3.0})
    weighed = dict(every.begin(opening, measured))
    assert weighed == pytest.approx({Path("a"): 0.6, Path("c"): 0.4})


def test_the_decay_follows_texts_a_step_where_tau_is_given():
    assert Average("").decay_of(start()) == 0.99
    # 1 - 1 / (1 + 12 * 8 / 32) = 1 - 1 / 4
    source = Average("", tau=12.0)
    assert source.decay_of(start()) == 0.75
    source.begin(Opened(nn.Linear(3, 2)), start())
    assert source.decay == 0.75


class Opened:
    """Gives copies of one model."""

    def __init__(self, model):
        self.model = model

    def student(self, folder=None, *, seed=None):
        copy = nn.Linear(3, 2)
        copy.load_state_dict(self.model.state_dict())
        return SimpleNamespace(loaded=SimpleNamespace(model=copy.requires_grad_(False)))


def steps(student, count):
    torch.manual_seed(1)
    for step in range(1, count + 1):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        yield step


def test_the_average_is_torchs_own_bit_for_bit():
    student, source = nn.Linear(3, 2), Average("", decay=0.9)
    reference = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    reference.update_parameters(student)  # its first takes the weights as they are
    teacher = source.begin(Opened(student), start())
    for step in steps(student, 7):
        source.after_step(teacher, student, step)
        reference.update_parameters(student)
    weight = teacher.loaded.model.weight
    assert torch.equal(weight, reference.module.weight)
    assert not torch.allclose(weight, student.weight)


def test_a_lagging_copy_is_made_anew_every_so_many_steps():
    student, source = nn.Linear(3, 2), Lagging("-3")
    teacher = source.begin(Opened(student), start())
    seen = [student.weight.detach().clone()]
    for step in steps(student, 7):
        seen.append(student.weight.detach().clone())
        source.after_step(teacher, student, step)
        assert torch.equal(teacher.loaded.model.weight, seen[step - step % 3])
