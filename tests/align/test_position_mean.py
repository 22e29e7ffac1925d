import torch

from align.position_mean import PRIOR, PositionMean, positions


def fitted(x, mask):
    means = PositionMean(x.shape[0], x.shape[-1])
    means.update(x[:, : len(x[0]) // 2], mask[: len(mask) // 2])
    means.update(x[:, len(x[0]) // 2 :], mask[len(mask) // 2 :])
    means.fit()
    return means


def sample(padding="right", texts=1500):
    """Content plus a curve over positions: (x, content, curve, mask)."""
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(2, texts, 9, 3, generator=generator)
    curve = torch.linspace(-5, 5, 9)[:, None] * torch.tensor([1.0, 0.0, -2.0])
    lengths = torch.randint(1, 10, (texts, 1), generator=generator)
    mask = torch.arange(9) < lengths
    if padding == "left":
        mask = mask.flip(1)
    x = content + curve[positions(mask)]
    return torch.where(mask[..., None], x, 1e4), content, mask


def test_what_belongs_to_a_position_goes_and_content_stays():
    for padding in ("right", "left"):
        x, content, mask = sample(padding)
        out = fitted(x, mask)(x, mask)[:, mask]
        centred = out - out.mean(1, keepdim=True)
        wanted = content[:, mask] - content[:, mask].mean(1, keepdim=True)
        error = (centred - wanted).square().mean() / wanted.square().mean()
        assert error < 0.05
        assert (x[:, mask].var(1) > 5).sum() == 4  # two of three channels had a curve


def test_the_table_is_the_mean_of_each_position_drawn_to_the_mean_of_all():
    x = torch.tensor([[[[1.0], [5.0]], [[3.0], [7.0]], [[2.0], [0.0]]]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    means = fitted(x, mask)
    overall = (1 + 5 + 3 + 7 + 2) / 5
    first = (1 + 3 + 2 + PRIOR * overall) / (3 + PRIOR) - overall
    second = (5 + 7 + PRIOR * overall) / (2 + PRIOR) - overall
    torch.testing.assert_close(means.table.flatten(), torch.tensor([first, second]))


def test_positions_beyond_the_sample_and_padding_are_left_alone():
    x, _, mask = sample()
    means = fitted(x[:, :, :4], mask[:, :4])
    out = means(x, mask)
    assert torch.equal(out[:, :, 4:], x[:, :, 4:])
    assert torch.equal(out[:, ~mask], x[:, ~mask])
    assert not torch.equal(out[:, :, :4], x[:, :, :4])


def test_before_fitting_and_without_a_token_nothing_changes():
    x, _, mask = sample(texts=2)
    assert PositionMean(2, 3)(x, mask) is x
    assert torch.equal(fitted(x, mask & False)(x, mask), x)


def test_bfloat16_stays_bfloat16():
    x, _, mask = sample(texts=8)
    assert fitted(x, mask)(x.bfloat16(), mask).dtype == torch.bfloat16
