import pytest

from student.output.terms import OutputConfig


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"kd": -1.0}, r"output\.kd must be >= 0, got -1\.0"),
        ({"likelihood": float("nan")}, r"output\.likelihood must be >= 0, got nan"),
        ({"block": 0}, r"output\.block must be >= 1, got 0"),
        ({"temperature": 0.0}, r"output\.temperature must be > 0, got 0\.0"),
        ({"threshold": 1.0}, r"output\.threshold must be in \[0, 1\), got 1\.0"),
        ({"ot_alpha": 1.5}, r"output\.ot_alpha must be in \[0, 1\], got 1\.5"),
        ({"mix": 1.0}, r"output\.mix must be in \(0, 1\), got 1\.0"),
        ({"divergence": "js"}, r"'js'; give one of forward, reverse, jensen_shannon"),
        ({"likelihood_ends": "words"}, r"'words'; give one of tokens, blanks"),
        ({"top_k": 8, "threshold": 0.1}, r"top_k=8 and output\.threshold=0\.1 both"),
        ({"teachers": {"ce": ["a"]}}, r"output\.teachers is 'ce'; give one of kd, hyb"),
    ],
)
def test_output_settings_out_of_range_are_named(change, error):
    with pytest.raises(ValueError, match=error):
        OutputConfig(**change)


def test_only_objectives_with_a_weight_are_on():
    assert OutputConfig().weights == {}
    assert OutputConfig(likelihood=0.5, kd=1.0).weights == {"kd": 1, "likelihood": 0.5}
