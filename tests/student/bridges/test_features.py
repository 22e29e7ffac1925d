import torch

from align.layer_map import mix_layer
from align.position_mean import PositionMean
from align.time_align import Alignment
from student.bridges.features import Features, LayerMixer


def pairs():
    """Two texts, T_s = 3, T_t = 2; the first token of text 1 is uncovered."""
    return Alignment(
        rows=torch.tensor([0, 1, 1, 2, 4, 5]),
        cols=torch.tensor([0, 0, 1, 1, 2, 3]),
        weights=torch.tensor([1, 0.25, 0.75, 1, 1, 1]),
        shape=(2, 3, 2),
    )


def test_one_pass_mixes_layers_and_aligns_tokens():
    x = torch.randn(3, 2, 2, 5)
    feeds = [(0, 0.25), (2, 0.75)]
    carry = LayerMixer(pairs())
    found = carry(x.flatten(1, 2), feeds)
    assert carry.tokens.tolist() == [0, 1, 2, 4, 5]
    expected = pairs().apply(mix_layer(x, feeds)).flatten(0, 1)[carry.tokens]
    torch.testing.assert_close(found, expected)
    aligned = Features((found, found), carry.tokens, (2, 3)).aligned()
    assert aligned.shape == (2, 2, 3, 5) and not aligned[:, 1, 0].any()
    torch.testing.assert_close(aligned[1], pairs().apply(mix_layer(x, feeds)))


def test_what_belongs_to_positions_is_carried_like_the_features():
    means = PositionMean(1, 5)
    mask = torch.tensor([[True, True], [True, False]])
    means.update(torch.randn(1, 2, 2, 5), mask)
    means.fit()
    found = LayerMixer(pairs()).rows(means.rows(0), means.places(mask).flatten())
    offset = means.offset(0, mask)
    expected = pairs().apply(offset).flatten(0, 1)[LayerMixer(pairs()).tokens]
    torch.testing.assert_close(found, expected)
    assert found.any()


def test_a_teacher_that_feeds_no_token_has_no_features():
    none = torch.zeros(0, dtype=torch.int64)
    carry = LayerMixer(Alignment(none, none, torch.zeros(0), (2, 3, 2)))
    layer = carry(torch.randn(1, 4, 5), [(0, 1.0)])
    assert layer.shape == (0, 5)
    aligned = Features((layer,), carry.tokens, (2, 3)).aligned()
    assert aligned.shape == (1, 2, 3, 5) and not aligned.any()
