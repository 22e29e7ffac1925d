import torch

from student.attention_sinks import without_sinks


def test_sinks_of_student_and_teachers_are_left_out(school):
    """Fact 11. Fails when ``without_sinks`` ignores the views."""
    lesson = school.lesson()
    batch = school.encode(["unbelievable stories", "a b c"])
    views = lesson.panel(batch)  # neither teacher has a begin-of-text token
    clear = without_sinks(batch, views, 1)
    assert clear.shape == (*batch.ids.shape, 2)
    for m, view in enumerate(views):
        dense = view.alignment.dense()
        fed_by_first = dense[:, :, 0] > 0
        assert bool(fed_by_first.any(1).all())
        expected = batch.mask & ~fed_by_first
        expected[:, 0] = False  # the student's own begin-of-text token
        torch.testing.assert_close(clear[..., m], expected)
    assert bool((without_sinks(batch, views, 0) == batch.mask[..., None]).all())
