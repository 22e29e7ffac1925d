import pytest
import torch

from student.layers import feature_temperature, layers_read


def test_layers_are_read_by_word_or_number():
    assert layers_read("all", 4) == (0, 1, 2, 3)
    assert layers_read("upper", 4) == (2, 3) and layers_read("upper", 5) == (2, 3, 4)
    assert layers_read("lower", 4) == (0, 1) and layers_read("lower", 1) == (0,)
    assert layers_read("middle", 4) == (1, 2) and layers_read("middle", 2) == (0, 1)
    assert layers_read("1, 3", 4) == (1, 3)
    with pytest.raises(ValueError, match=r"asks for layer 4.*0\.\.3"):
        layers_read("1,4", 4)


def test_one_temperature_serves_all_layers_or_rises_and_other_numbers_are_refused():
    assert feature_temperature([1.0, 1.0], 2) is None
    for given in ([4.0], [4.0, 4.0, 4.0]):
        torch.testing.assert_close(feature_temperature(given, 3), torch.full((3,), 4.0))
    rising = feature_temperature([2.0], 4, rise=0.5)  # 2 (1 + l / 8)
    torch.testing.assert_close(rising, torch.tensor([2.25, 2.5, 2.75, 3.0]))
    assert feature_temperature([1.0], 2, rise=1.0).tolist() == [1.5, 2.0]
    with pytest.raises(ValueError, match=r"has 2 entries, .* 3 layers"):
        feature_temperature([1.0, 2.0], 3)
