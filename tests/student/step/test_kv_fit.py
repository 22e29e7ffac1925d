import numpy as np
import pytest
import torch

from student.places import availability
from student.step.kv_fit import kv_fit


def cosine(a, b):
    dot = (a * b).sum(-1)
    return dot / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("kind", ["adapter", "projector"])
def test_it_is_the_mean_cosine_where_the_space_compares(school, kind):
    lesson = school.lesson(kind)
    batch = school.batch()
    views = lesson.panel(batch)
    captured = lesson.capture(batch.ids, batch.mask)
    available = availability(batch, views)
    fit = kv_fit(lesson.bridge, captured, views, available)
    assert fit.shape == available.shape and not fit.requires_grad
    assert torch.equal(fit.isnan(), ~available)
    bridge, (k, v) = lesson.bridge, captured.kv.flat()
    for m, view in enumerate(views):
        if kind == "adapter":
            theirs = bridge.carry(m, view, view.alignment)
            pairs = [
                (stand(own), stand(target))
                for stand, own, target in zip(
                    (bridge.student_k, bridge.student_v), (k, v), theirs, strict=True
                )
            ]
        else:
            each = bridge.compare(captured.kv, views, available.float())[m]
            pairs = [(each.pred_k, each.target_k), (each.pred_v, each.target_v)]
        known = available[..., m].numpy()
        sides = [
            cosine(a.detach().numpy()[:, known], b.detach().numpy()[:, known])
            for a, b in pairs
        ]
        expected = np.stack(sides).mean((0, 1))
        np.testing.assert_allclose(fit[..., m].numpy()[known], expected, atol=1e-5)
