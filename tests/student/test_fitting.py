"""What a term learns from the sample before the first step."""

import pytest
import torch
from torch import nn

from align.errors import InputError
from student.config import LossConfig
from student.fitting import fit_terms
from student.loop.batches import query_rows
from student.loop.phase_checkpoint import Keeper
from student.loop.trainer import train_phase
from student.terms.key_value import OBJECTIVES, kv_k
from tests.student.loop.test_trainer import CONFIG, Watching, job_for, weights_of


class InMeanDistance(nn.Module):
    """Distance of keys in units of the sample's; what it holds is made by ``fit``."""

    needs = frozenset({"attention"})
    scale: torch.Tensor

    def fit(self, sample):
        contexts = list(sample)
        self.fitted_on = contexts
        self.modes = torch.is_grad_enabled()
        distances = torch.stack([kv_k(ctx) for ctx in contexts])
        self.register_buffer("scale", 1 / distances.mean())
        self.offset = nn.Parameter(torch.zeros(2))

    def forward(self, ctx):
        return self.scale * kv_k(ctx) + self.offset.sum()


def lesson_of(school, monkeypatch, term=InMeanDistance):
    monkeypatch.setitem(OBJECTIVES, "fitted", term)
    return school.lesson(
        "projector", loss=LossConfig(terms={"mine": {"use": "fitted", "weight": 0.1}})
    )


def sample_of(school, lesson):
    batch = school.batch()
    rows = query_rows(batch, 4, 0, range(len(batch.ids)))
    titles = []

    def sample(title):
        titles.append(title)
        for _ in range(2):
            yield batch, rows, lesson.panel(batch, rows)

    return sample, titles


def test_a_term_is_fitted_on_what_it_will_read(school, monkeypatch):
    lesson = lesson_of(school, monkeypatch)
    sample, titles = sample_of(school, lesson)
    fit_terms(lesson.distiller, sample)
    term = lesson.distiller.terms["mine-term"]
    assert titles == ["fitting mine in"]
    first, second = term.fitted_on
    assert first.attention and not first.attention[0].student.requires_grad
    assert not first.comparisons[0].pred_k.requires_grad
    assert term.modes  # a term may descend by itself
    assert torch.equal(first.comparisons[0].pred_k, second.comparisons[0].pred_k)
    # In units of the sample, the sample is at distance 1.
    assert float(term(first).detach()) == pytest.approx(1)
    assert not lesson.distiller.training


@pytest.mark.slow
def test_what_fit_makes_is_trained_saved_and_taken_up_bit_for_bit(
    school, start_engine, tmp_path, monkeypatch
):
    def run(stop_at=None, folder=None, times=1.0):
        lesson = lesson_of(school, monkeypatch)
        fit_terms(lesson.distiller, sample_of(school, lesson)[0])
        lesson.distiller.terms["mine-term"].scale.mul_(times)
        job = job_for(
            school,
            lesson,
            checkpoints=folder and Keeper(folder=folder),
            observer=Watching(stop_at=stop_at),
        )
        train_phase(lesson.distiller, start_engine(CONFIG), job, CONFIG)
        return weights_of(lesson)

    whole = run()
    run(3, tmp_path)
    resumed = run(None, tmp_path, times=7.0)  # as if the sample were another
    assert {"terms.mine-term.scale", "terms.mine-term.offset"} <= whole.keys()
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    assert float(whole["terms.mine-term.offset"].abs().min()) > 0


def test_a_term_that_is_fitted_and_is_no_module_is_refused(school, monkeypatch):
    class NoModule:
        needs = frozenset()

        def fit(self, sample):
            self.scale = 1.0

        def __call__(self, ctx):
            return ctx.zero()

    with pytest.raises(InputError, match=r"'mine' has a method fit and is no module"):
        lesson_of(school, monkeypatch, NoModule)


def test_a_value_that_is_not_finite_names_term_and_value(school, monkeypatch):
    class Infinite(InMeanDistance):
        def fit(self, sample):
            super().fit(sample)
            self.scale.fill_(torch.inf)

    lesson = lesson_of(school, monkeypatch, Infinite)
    with pytest.raises(InputError, match=r"loss\.terms\.mine: scale is not finite"):
        fit_terms(lesson.distiller, sample_of(school, lesson)[0])


def test_terms_without_fit_ask_nobody(school, monkeypatch):
    lesson = school.lesson("projector", loss=LossConfig())
    sample, titles = sample_of(school, lesson)
    fit_terms(lesson.distiller, sample)
    assert titles == []
