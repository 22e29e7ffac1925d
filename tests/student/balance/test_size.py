"""Terms of one size: by hand."""

from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from plugins.contracts.balancer import standing
from student.balance import BALANCERS, GradientMagnitude, Relative

NAMES = ("ce", "kd", "kv_k")


def of(**facts):
    base = standing(3)
    facts = {k: torch.tensor(v, dtype=torch.float64) for k, v in facts.items()}
    return replace(base, **facts)


def test_every_term_is_as_large_as_the_next_token_loss_times_its_weight():
    given = of(losses=[2.0, 0.5, 8.0], weights=[1.0, 0.1, 3.0])
    weights = Relative(NAMES)(given).weights
    torch.testing.assert_close(
        weights * given.losses, torch.tensor([2.0, 0.2, 6.0]).double()
    )
    limited = Relative(NAMES, limit=2.0)(given).weights
    assert limited.tolist() == pytest.approx([1.0, 0.2, 0.75])


def test_without_a_size_to_go_by_weights_stay():
    silent = of(losses=[2.0, 0.0, 8.0], weights=[1.0, 0.1, 3.0])
    assert Relative(NAMES)(silent).weights.tolist() == pytest.approx([1, 0.1, 0.75])
    nothing = of(losses=[0.0, 1.0, 8.0], weights=[1.0, 0.1, 3.0])
    assert Relative(NAMES)(nothing).weights.tolist() == [1.0, 0.1, 3.0]


def test_gradients_are_equally_long_times_their_weights():
    gram = torch.diag(torch.tensor([16.0, 1.0, 1.0])).double()
    given = replace(of(weights=[1.0, 0.5, 2.0], losses=[1.0, 1.0, 1.0]), gram=gram)
    weights = GradientMagnitude(NAMES)(given).weights
    assert (weights * given.norms).tolist() == pytest.approx([2.0, 1.0, 4.0])
    gram[2, 2] = 0  # neither weighed nor in the mean
    weights = GradientMagnitude(NAMES)(replace(given, gram=gram)).weights
    assert weights.tolist() == pytest.approx([2.5 / 4, 0.5 * 2.5, 2.0])


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("relative", "limit", 0.0),
        ("gradient_magnitude", "limit", -1.0),
        ("gradnorm", "alpha", -0.5),
        ("pareto", "scale", "loud"),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(name, option, value):
    with pytest.raises(InputError, match=f"{option} is {value!r}"):
        BALANCERS[name](NAMES, **{option: value})
