import pytest

from experiments.report.teachers import percent_more


@pytest.mark.parametrize(
    ("ours", "other", "said"),
    [
        (0.97, 1.0, "-3.0%"),
        (1.001, 1.0, "+0.1%"),
        (0.9996, 1.0, "0.0%"),  # and no -0.0%
        (1.0004, 1.0, "0.0%"),
        (1.0, None, "–"),
        (None, 1.0, "–"),
    ],
)
def test_a_difference_that_rounds_to_none_has_no_sign(ours, other, said):
    assert percent_more(ours, other) == said
