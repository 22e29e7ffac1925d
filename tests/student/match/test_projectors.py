"""Every projector, as it begins, as it is fitted, and while it learns."""

import pytest
import scipy.linalg
import torch
from sklearn.decomposition import PCA

from align.calibration import CalibrationStats
from align.errors import InputError
from student.bridges.base import PairStats
from student.match import PROJECTORS

LAYERS, TOKENS = 2, 60


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def statistics(x, y):
    """Both ways, of (L, N, C) features."""
    pair = PairStats(
        CalibrationStats(len(x), y.shape[-1], x.shape[-1]),
        CalibrationStats(len(x), x.shape[-1], y.shape[-1]),
    )
    pair.to_student.update(y, x)
    pair.to_teacher.update(x, y)
    return pair


def texts(x):
    """(L, N, C) as one text."""
    return x[:, None]


@pytest.fixture
def rotated():
    """A student that is its teacher, turned, scaled and shifted."""
    y = random(LAYERS, TOKENS, 5)
    rotation = torch.linalg.qr(random(LAYERS, 5, 5, seed=1))[0]
    return 0.5 * y @ rotation + 3, y


def test_a_rotated_copy_costs_nothing_after_every_fit_but_a_cut_one(rotated):
    x, y = rotated
    stats = statistics(x, y)
    for name, options in {
        "orthogonal": {},
        "linear": {},
        "mlp": {},
        "pca": {"rank": 3},
    }.items():
        projector = PROJECTORS[name](5, 5, LAYERS, **options).double()
        costs = []
        for _ in range(2):
            apart = projector(texts(x)) - projector.target(texts(y))
            costs.append(float(apart.square().mean().detach()))
            projector.fit(stats)
        least = 1e-12 if name == "orthogonal" else 2e-4  # ridge shrinks a little
        assert costs[1] < least < costs[0]


def test_the_rotation_is_scipy_s(rotated):
    x, _ = rotated
    y = random(LAYERS, TOKENS, 5, seed=4)
    projector = PROJECTORS["orthogonal"](5, 5, LAYERS).double()
    projector.fit(statistics(x, y))
    scales = projector.scale.tolist()
    for layer in range(LAYERS):
        centred = [(s[layer] - s[layer].mean(0)).numpy() for s in (x, y)]
        expected, size = scipy.linalg.orthogonal_procrustes(*centred)
        found = projector.weight[layer].detach().numpy()
        assert abs(found - expected).max() < 1e-9
        scale = size / (centred[0] ** 2).sum()
        assert scales[layer] == pytest.approx(scale)


@pytest.mark.parametrize(("student", "teacher"), [(4, 6), (6, 4), (5, 5)])
def test_a_rotation_stays_one_while_it_learns(student, teacher):
    projector = PROJECTORS["orthogonal"](student, teacher, LAYERS).double()
    x, y = random(LAYERS, 1, 20, student), random(LAYERS, 1, 20, teacher, seed=1)
    begin = projector.weight.detach().clone()
    optimizer = torch.optim.Adam(projector.parameters(), lr=0.05)
    costs = []
    for _ in range(20):
        optimizer.zero_grad()
        cost = (projector(x) - y).square().mean()
        cost.backward()
        optimizer.step()
        costs.append(float(cost.detach()))
    found = projector.weight.detach()
    short = found @ found.mT if student < teacher else found.mT @ found
    itself = torch.eye(short.shape[-1], dtype=torch.float64).expand_as(short)
    torch.testing.assert_close(short, itself)
    assert costs[-1] < costs[0] and not torch.allclose(found, begin, atol=0.01)


def test_leading_directions_are_those_of_greatest_variance():
    spread = torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3], dtype=torch.float64)
    y = random(LAYERS, TOKENS, 5) * spread
    x = random(LAYERS, TOKENS, 4, seed=1)
    projector = PROJECTORS["pca"](4, 5, LAYERS, rank=2).double()
    projector.fit(statistics(x, y))
    kept = projector.target(texts(y)).var((1, 2), correction=0)
    for layer in range(LAYERS):
        centred = y[layer] - y[layer].mean(0)
        sizes = torch.linalg.svdvals(centred).square() / TOKENS
        torch.testing.assert_close(kept[layer], sizes[:2] / sizes[:2].mean())
        theirs = torch.as_tensor(PCA(2).fit_transform(y[layer].numpy()))
        ours = projector.target(texts(y))[layer, 0]
        expected = theirs / sizes[:2].mean().sqrt()
        torch.testing.assert_close(ours.abs(), expected.abs())  # they have no sign
    with pytest.raises(InputError, match=r"rank=9 .* 5 wide; give a rank of at most 5"):
        PROJECTORS["pca"](4, 5, LAYERS, rank=9)


def test_an_mlp_is_a_linear_map_and_a_hidden_layer_beside_it():
    projector = PROJECTORS["mlp"](2, 3, 1, hidden=4).double()
    drawn = {n: random(*p.shape) for n, p in projector.named_parameters()}
    projector.load_state_dict(drawn)
    x = random(1, 1, TOKENS, 2, seed=1)
    inner, outer, beside = (
        (drawn[f"{part}.weight"][0], drawn[f"{part}.bias"][0])
        for part in ("inner", "outer", "map")
    )
    hidden = (x @ inner[0] + inner[1]).clamp_min(0)
    expected = x @ beside[0] + beside[1] + hidden @ outer[0] + outer[1]
    torch.testing.assert_close(projector(x), expected)


def test_a_hidden_layer_learns_what_no_linear_map_can():
    x = random(1, 1, 200, 2)
    y = x.abs()
    costs = {}
    for name in ("linear", "mlp"):
        projector = PROJECTORS[name](2, 2, 1).double()
        projector.fit(statistics(x[:, 0], y[:, 0]))
        optimizer = torch.optim.Adam(projector.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            cost = (projector(x) - y).square().mean()
            cost.backward()
            optimizer.step()
        costs[name] = float(cost.detach())
    assert costs["mlp"] < 0.5 * costs["linear"]


@pytest.mark.parametrize("name", sorted(PROJECTORS))
def test_every_process_makes_the_same_projector(name):
    sizes = (20, 24, LAYERS)
    one, other = (PROJECTORS[name](*sizes).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", sorted(PROJECTORS))
def test_what_is_only_counted_is_not_made(name):
    with torch.device("meta"):
        counted = PROJECTORS[name](20, 24, LAYERS)
    made = PROJECTORS[name](20, 24, LAYERS)
    numbers = [sum(p.numel() for p in m.parameters()) for m in (counted, made)]
    assert numbers[0] == numbers[1] > 0
    assert all(parameter.is_meta for parameter in counted.parameters())


@pytest.mark.parametrize("name", sorted(PROJECTORS))
def test_narrow_matrix_products_stay_finite_and_near(name):
    projector = PROJECTORS[name](20, 24, LAYERS)
    x = random(LAYERS, 2, 5, 20).float()
    plain = projector(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = projector(x)
    assert narrow.isfinite().all()
    torch.testing.assert_close(narrow.float(), plain, atol=0.1, rtol=0.05)
