import pytest

from student.output_config import OutputConfig


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"kd": -1.0}, r"output\.kd is -1\.0; give a number >= 0"),
        (
            {"likelihood": float("nan")},
            r"output\.likelihood is nan; give a number >= 0",
        ),
        ({"block": 0}, r"output\.block is 0; give an integer >= 1"),
        ({"temperature": 0.0}, r"output\.temperature is 0\.0; give a number > 0"),
        ({"threshold": 1.0}, r"output\.threshold is 1\.0; give a number in \[0, 1\)"),
        ({"ot_alpha": 1.5}, r"output\.ot_alpha is 1\.5; give a number in \[0, 1\]"),
        ({"mix": 1.0}, r"output\.mix is 1\.0; give a number in \(0, 1\)"),
        ({"divergence": "js"}, r"'js'; give one of 'forward', 'reverse', 'jensen"),
        ({"likelihood_ends": "words"}, r"'words'; give one of 'tokens', 'blanks'"),
        ({"top_k": 8, "threshold": 0.1}, r"top_k=8 and output\.threshold=0\.1 both"),
        ({"teachers": {"ce": ["a"]}}, r"output\.teachers is 'ce'; give one of 'kd', '"),
    ],
)
def test_output_settings_out_of_range_are_named(change, error):
    with pytest.raises(ValueError, match=error):
        OutputConfig(**change)


def test_only_objectives_with_a_weight_are_on():
    assert OutputConfig().weights == {}
    assert OutputConfig(likelihood=0.5, kd=1.0).weights == {"kd": 1, "likelihood": 0.5}


def test_a_term_whose_teachers_are_none_is_refused():
    with pytest.raises(
        ValueError, match=r"output\.teachers\.kd is \[\], so that output"
    ):
        OutputConfig(kd=1, teachers={"kd": []})
    with pytest.raises(ValueError, match="nobody to learn from"):
        OutputConfig().under("projected_kl", {"teachers": []})
