from dataclasses import replace

import pytest
import torch

from align.calibration import STD_FLOOR
from align.tokens.batch import TokenBatch
from student.attention_sinks import without_sinks
from student.bridges.calibrate import NoCoverageError, calibrate, fit_positions
from student.config import LossConfig


def test_constants_are_the_samples_own_over_tokens_that_count(school):
    """Fact 11. Fails when sinks, padding or uncovered tokens are counted."""
    lesson = school.lesson("projector")
    batch = school.batch(6)
    views = lesson.panel(batch)
    calibrate(lesson.capture, lesson.bridge, [(batch, views)], 1)
    clear = without_sinks(batch, views, 1)
    with torch.no_grad():
        own = lesson.capture(batch.ids, batch.mask).kv.flat()[0]
    for m, view in enumerate(views):
        keep = clear[..., m] & batch.has_text & view.alignment.covered
        theirs = view.alignment.apply(lesson.bridge.depth(m, view)[0])[:, keep]
        unit = lesson.bridge.teacher_k[m]
        torch.testing.assert_close(unit.mean, theirs.mean(1), rtol=1e-4, atol=1e-5)
        spread = theirs.std(1, correction=0)
        torch.testing.assert_close(unit.std, spread, rtol=1e-3, atol=10 * STD_FLOOR)
        mine = own[:, keep]
    torch.testing.assert_close(
        lesson.bridge.student_k.std, mine.std(1, correction=0), rtol=1e-3, atol=1e-5
    )


def test_the_report_says_coverage_fit_and_own_loss(school):
    report = school.lesson("adapter", ("gpt2-prose", "bert-mixed")).report
    assert set(report.coverage) == {"gpt2-prose", "bert-mixed"}
    assert all(0.9 < share <= 1 for share in report.coverage.values())
    assert report.bits.shape == (16, 2) and report.hidden.shape[0] == 16
    assert bool(report.bits[:, 0].isfinite().all())
    assert bool(report.bits[:, 1].isnan().all())  # an encoder has no next token
    for values in report.fit["gpt2-prose"].values():
        assert len(values) == 2  # one a layer of the student


def test_the_same_sample_in_other_batches_gives_the_same_fit(school):
    found = []
    for size in (2, 6):
        lesson = school.lesson("adapter")
        every = [s.text for s in school.samples[:6]]
        parts = [school.encode(every[i : i + size]) for i in range(0, 6, size)]
        calibrate(
            lesson.capture, lesson.bridge, ((b, lesson.panel(b)) for b in parts), 1
        )
        found.append(lesson.bridge.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-3)


def test_positions_are_taken_off_the_teachers_that_have_them(school):
    """The counterpart of undoing a rotation. Fails when depth() forgets the table."""
    lesson = school.lesson("projector")
    bridge, batch = lesson.bridge, school.batch(16)
    views = lesson.panel(batch)
    before = [bridge.depth(m, view) for m, view in enumerate(views)]
    bridge.teachers = (replace(bridge.teachers[0], positions=True), bridge.teachers[1])
    fit_positions(bridge, [views])
    after = [bridge.depth(m, view) for m, view in enumerate(views)]
    assert torch.equal(before[1][0], after[1][0])
    mask = views[0].kv.mask
    for was, now in zip(before[0], after[0], strict=True):
        spread = [_between_positions(x, mask) for x in (was, now)]
        assert spread[1] < 0.5 * spread[0]


def _between_positions(x, mask):
    """Variance of the positions' means over the first ten tokens."""
    means = [x[:, mask[:, t], t].mean(1) for t in range(10)]
    return torch.stack(means).var(0).mean()


def test_a_teacher_that_shares_no_text_is_named(school):
    lesson = school.lesson("adapter")
    batch = school.batch(2)
    views = lesson.panel(batch)
    blind = TokenBatch(
        batch.ids, batch.mask, torch.zeros_like(batch.spans), batch.texts
    )
    with pytest.raises(NoCoverageError, match="teacher 'gpt2-prose' covers no token"):
        calibrate(lesson.capture, lesson.bridge, [(blind, views)], 1)


def test_sinks_that_leave_nothing_are_named_as_the_cause(school):
    lesson = school.lesson("adapter")
    batch = school.batch(2)
    pairs = [(batch, lesson.panel(batch))]
    with pytest.raises(NoCoverageError, match=r"loss\.skip_sinks=1000 leaves out"):
        calibrate(lesson.capture, lesson.bridge, pairs, 1000)


@pytest.mark.parametrize("kind", ["adapter", "projector", "latent"])
def test_a_lessons_remembered_bridge_is_one_calibrated_anew(school, kind):
    """Tests that share a calibration see what they would have seen without."""
    key = (kind, ("gpt2-prose", "qwen-code"), LossConfig().skip_sinks)
    school.calibrated.pop(key, None)
    seen = []
    for _ in range(3):
        lesson = school.lesson(kind, routed=True)
        weights = {n: w.clone() for n, w in lesson.distiller.state_dict().items()}
        seen.append((weights, lesson.report, torch.rand(3)))
        for weight in lesson.bridge.parameters():  # is not the next lesson's
            weight.data.fill_(7.0)
    assert key in school.calibrated
    for weights, report, drawn in seen[1:]:
        assert weights.keys() == seen[0][0].keys()
        assert all(torch.equal(w, seen[0][0][n]) for n, w in weights.items())
        assert repr(report) == repr(seen[0][1])  # it holds tensors
        assert torch.equal(drawn, seen[0][2])


@pytest.mark.parametrize("kind", ["adapter", "latent"])
def test_a_teacher_that_is_never_asked_afterwards_is_fitted_all_the_same(school, kind):
    """It is fitted before the others, whose tokens say what the student is like."""
    lesson = school.lesson(kind)
    batch = school.batch(6)
    sample = [(batch, lesson.panel(batch))]
    for name in ("gpt2-prose", "qwen-code"):
        if kind == "latent":  # as a bridge is that nobody has fitted
            lesson.bridge.z.student_calibrated = torch.tensor(False)
        report = calibrate(lesson.capture, lesson.bridge, sample, 1, unasked=[name])
        assert set(report.fit) == {"gpt2-prose", "qwen-code"}


def test_another_sample_fits_the_student_s_coders_anew(school):
    lesson = school.lesson("latent")
    z, seen = lesson.bridge.z, []
    for size in (6, 3):
        batch = school.batch(size)
        calibrate(lesson.capture, lesson.bridge, [(batch, lesson.panel(batch))], 1)
        weights = [w for c in z._coders(None) for w in c.state_dict().values()]
        seen.append([w.detach().clone() for w in weights])
    assert any(not torch.equal(a, b) for a, b in zip(*seen, strict=True))
