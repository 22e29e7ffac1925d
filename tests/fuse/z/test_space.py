import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from align.calibration import CalibrationStats
from fuse.z.agreement import agreement, agreement_counts
from fuse.z.coder import LayerwiseCoder
from fuse.z.space import ZSpace

L, B, T = 2, 4, 16
TEACHERS, STUDENT = [(10, 6), (14, 9)], (12, 12)


def world(seed=0, tokens=T):
    """Teachers and student as different linear views of one hidden cause."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.Generator().manual_seed(99)
    cause = torch.randn(L, B, tokens, 5, generator=generator)
    views = []
    for width_k, width_v in [*TEACHERS, STUDENT]:
        pair = []
        for width in (width_k, width_v):
            mix = torch.randn(L, 5, width, generator=mixing)
            scale = 10 ** torch.rand(width, generator=mixing)
            x = torch.einsum("lbtc,lcd->lbtd", cause, mix) * scale + 3
            pair.append(x + 0.01 * torch.randn(x.shape, generator=generator))
        views.append(tuple(pair))
    return views


def stats_of(x, y):
    stats = CalibrationStats(L, x.shape[-1], y.shape[-1])
    stats.update(x.flatten(1, 2), y.flatten(1, 2))
    return stats


def calibrated(views, **kwargs):
    torch.manual_seed(0)
    space = ZSpace(
        teacher_dims=TEACHERS, student_dims=STUDENT, num_layers=L, z_dim=5, **kwargs
    )
    *teachers, student = views
    space.calibrate_student(*(stats_of(x, x) for x in student))
    reports = []
    for m, teacher in enumerate(teachers):
        pairs = zip(teacher, student, strict=True)
        reports.append(space.calibrate(m, *(stats_of(x, y) for x, y in pairs)))
    return space, reports


def effective_rank(x):
    values = torch.linalg.svdvals(x.flatten(1, 2)[0] - x.flatten(1, 2)[0].mean(0))
    p = values / values.sum()
    return torch.exp(-(p * p.clamp(min=1e-12).log()).sum()).item()


def test_a_calibrated_coder_is_the_whitened_pca_of_standardised_features():
    x = world()[0][0]
    coder = LayerwiseCoder(L, x.shape[-1], 4)
    stats = stats_of(x, x)
    kept = coder.calibrate(stats.mean_x, stats.std_x, stats.cov_x)
    for layer in range(L):
        rows = coder.standardise(x)[layer].flatten(0, 1).numpy()
        pca = PCA(4, whiten=True, svd_solver="full").fit(rows)
        ours = coder.encode(x)[layer].flatten(0, 1).detach().numpy()
        # scikit-learn divides variances by n - 1; signs are free
        theirs = pca.transform(rows) * np.sqrt(len(rows) / (len(rows) - 1))
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=2e-3)
        share = pca.explained_variance_ratio_.sum()
        assert kept[layer].item() == pytest.approx(share, rel=1e-5)


def test_calibration_reconstructs_and_makes_different_families_agree():
    space, reports = calibrated(world())
    assert min(min(r["variance_k"] + r["variance_v"]) for r in reports) > 0.99
    assert min(min(r["agreement_k"] + r["agreement_v"]) for r in reports) > 0.95
    fresh = world(seed=1)
    mask = torch.ones(B, T, dtype=torch.bool)
    for model, (k, v) in zip((0, 1, None), fresh, strict=True):
        assert space.reconstruction_loss(model, k, v, mask) < 0.02
    # a teacher's latent, decoded for the student, says what the student would say
    zk, zv = space.encode(0, *fresh[0])
    guess, _ = space.decode_to_student(zk, zv)
    error = (guess - fresh[2][0]).square().mean() / fresh[2][0].var()
    assert error < 0.1


def test_latents_of_a_teacher_narrower_than_z_are_padded():
    space = ZSpace(teacher_dims=[(3, 3)], student_dims=(12, 12), num_layers=L, z_dim=5)
    x, y = torch.randn(L, B, T, 3), torch.randn(L, B, T, 12)
    space.calibrate_student(stats_of(y, y), stats_of(y, y))
    report = space.calibrate(0, stats_of(x, y), stats_of(x, y))
    assert min(report["variance_k"]) == pytest.approx(1, abs=1e-5)
    mask = torch.ones(B, T, dtype=torch.bool)
    assert space.reconstruction_loss(0, x, x, mask) < 1e-6


def test_a_short_or_resting_calibration_sample_does_not_explode_later():
    k, v = world()[2]
    few, resting = k[:, :1, :3].clone(), v[:, :1, :3].clone()
    resting[..., 0] = 5.0
    space = ZSpace(teacher_dims=[], student_dims=STUDENT, num_layers=L, z_dim=5)
    space.calibrate_student(stats_of(few, few), stats_of(resting, resting))
    zk, zv = space.encode_student(k, v)
    assert zk.abs().max() < 1e2 and zv.abs().max() < 1e2
    moved = v.clone()
    moved[..., 0] += 1.0
    mask = torch.ones(B, T, dtype=torch.bool)
    assert space.reconstruction_loss(None, k, moved, mask) < 1e4


@pytest.mark.parametrize("hidden", [0, 8])
def test_reconstruction_improves_by_training_and_never_reaches_the_student(hidden):
    k, v = (x.clone().requires_grad_() for x in world()[2])
    space = ZSpace(
        teacher_dims=TEACHERS,
        student_dims=STUDENT,
        num_layers=L,
        z_dim=5,
        hidden=hidden,
    )
    stats = stats_of(k.detach(), k.detach()), stats_of(v.detach(), v.detach())
    space.calibrate_student(*stats)
    mask = torch.ones(B, T, dtype=torch.bool)
    with torch.no_grad():  # damage it, so that there is something to learn
        for parameter in space.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    before = space.reconstruction_loss(None, k, v, mask).item()
    optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = space.reconstruction_loss(None, k, v, mask)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * before
    assert k.grad is None and v.grad is None


def test_masked_tokens_do_not_count():
    space, _ = calibrated(world())
    k, v = (x.clone() for x in world()[0])
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0] = False
    before = space.reconstruction_loss(0, k, v, mask)
    k[:, 0] = 1e6
    assert torch.equal(space.reconstruction_loss(0, k, v, mask), before)
    z = [space.encode(m, *world()[m]) for m in (0, 1)]
    agreed = space.agreement_loss(z, [mask, mask])
    z[0][0][:, 0] += 100
    torch.testing.assert_close(space.agreement_loss(z, [mask, mask]), agreed)


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_agreement_is_low_for_one_cause_and_blind_to_scale(kind):
    torch.manual_seed(0)
    mask = torch.ones(8, 32, dtype=torch.bool)
    z = torch.randn(1, 8, 32, 4)
    other = torch.randn(1, 8, 32, 4)
    alone = agreement([z], [mask], kind)
    same = agreement([z, z], [mask, mask], kind)
    torch.testing.assert_close(same, alone)  # no distance beyond the floors
    apart = agreement([z, other], [mask, mask], kind) - alone
    assert apart > 0.5
    # ten times larger latents of the second teacher: no nearer, no farther
    floors = agreement([10 * other], [mask], kind)
    grown = agreement([z, 10 * other], [mask, mask], kind) - (alone + floors) / 2
    first = agreement([z, other], [mask, mask], kind)
    shared = (alone + agreement([other], [mask], kind)) / 2
    torch.testing.assert_close(grown, first - shared, rtol=1e-2, atol=1e-3)


def test_agreement_only_looks_at_tokens_both_cover():
    torch.manual_seed(0)
    z = torch.randn(1, 4, 32, 3)
    other = z.clone()
    other[:, :2] = torch.randn(1, 2, 32, 3)
    second = torch.zeros(4, 32, dtype=torch.bool)
    second[2:] = True  # where they are equal
    first = torch.ones(4, 32, dtype=torch.bool)
    floors = (agreement([z], [first]) + agreement([other], [second])) / 2
    found = agreement([z, other], [first, second])
    torch.testing.assert_close(found, floors, atol=1e-5, rtol=1e-5)
    nothing = torch.zeros(4, 32, dtype=torch.bool)
    assert agreement([z, other], [nothing, nothing]) == 0


def test_agreement_is_taken_within_texts_and_averaged_by_their_tokens():
    # One direction, spreads above 1: nothing but the pull counts.
    one = torch.tensor([[0.0, 2, 0, 0], [0, 2, 0, 2], [5, 9, 9, 9]])[None, ..., None]
    other = torch.tensor([[12.0, 8, 0, 0], [0, 4, 0, 4], [7, 1, 1, 1]])[None, ..., None]
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    # Standardised the first text is (-1, 1) and (1, -1), the second twice the same, and
    # of the third a single token is covered: (2 · 4 + 4 · 0) / 6.
    found = agreement([one, other], [mask, mask])
    torch.testing.assert_close(found, torch.tensor(4 / 3), atol=1e-3, rtol=0)
    assert agreement_counts([mask, mask]) == (6, 6, 6)
    parts = [
        agreement([one[:, i : i + 1], other[:, i : i + 1]], [m, m], totals=(6, 6, 6))
        for i, m in enumerate(mask.split(1))
    ]
    torch.testing.assert_close(sum(parts), found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_agreement_alone_does_not_collapse_but_plain_distance_does(kind):
    # teachers with nothing in common: agreeing is easiest by saying nothing
    views = [world(tokens=32)[0], world(seed=1, tokens=32)[1], world(tokens=32)[2]]
    mask = torch.ones(B, 32, dtype=torch.bool)

    def trained(loss_of):
        space, _ = calibrated(views)
        optimizer = torch.optim.Adam(space.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            loss_of([space.encode(m, *views[m]) for m in (0, 1)]).backward()
            optimizer.step()
        return space.encode(0, *views[0])[0].detach()

    plain = trained(lambda z: (z[0][0] - z[1][0]).square().mean())
    held = trained(lambda z: agreement([p[0] for p in z], [mask, mask], kind))
    assert held.std((1, 2)).min() > 0.8
    assert effective_rank(held) > 3.5  # of 5
    assert plain.std((1, 2)).max() < 0.3


def test_misfits_are_named():
    space = ZSpace(teacher_dims=TEACHERS, student_dims=STUDENT, num_layers=L, z_dim=5)
    k, v = world()[0]
    with pytest.raises(ValueError, match=r"k of teacher 1 .*\(2, B, T, 14\)"):
        space.encode(1, k, v)
    with pytest.raises(ValueError, match=r"teacher 2 is not in Z.*0\.\.1"):
        space.encode(2, k, v)
    with pytest.raises(ValueError, match=r"2 latents and 1 masks"):
        agreement([k, k], [torch.ones(B, T).bool()])
    with pytest.raises(ValueError, match="is 'l1'; give one of 'cosine', 'mse'"):
        ZSpace(
            teacher_dims=TEACHERS,
            student_dims=STUDENT,
            num_layers=L,
            agreement_kind="l1",
        )
    with pytest.raises(ValueError, match="numbers >= 1"):
        ZSpace(teacher_dims=TEACHERS, student_dims=STUDENT, num_layers=L, z_dim=0)


def test_teachers_are_turned_towards_a_calibrated_student_only():
    k, v = world()[0]
    with pytest.raises(ValueError, match="call calibrate_student"):
        ZSpace(
            teacher_dims=TEACHERS, student_dims=STUDENT, num_layers=L, z_dim=5
        ).calibrate(0, stats_of(k, k), stats_of(v, v))


def test_everything_is_saved_and_restored_by_state_dict():
    space, _ = calibrated(world())
    other = ZSpace(teacher_dims=TEACHERS, student_dims=STUDENT, num_layers=L, z_dim=5)
    other.load_state_dict(space.state_dict())
    k, v = world()[1]
    for a, b in zip(space.encode(1, k, v), other.encode(1, k, v), strict=True):
        assert torch.equal(a, b)


def test_agreement_is_float32_where_products_are_bfloat16():
    torch.manual_seed(0)
    latents = [torch.randn(L, B, T, 5) for _ in range(2)]
    masks = [torch.ones(B, T, dtype=torch.bool)] * 2
    expected = agreement(latents, masks)
    with torch.autocast("cpu", torch.bfloat16):
        found = agreement(latents, masks)
    assert torch.equal(found, expected)
