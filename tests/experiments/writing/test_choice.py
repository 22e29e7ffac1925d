import pytest

from align.errors import InputError
from experiments.writing.choice import way_of
from plugins.errors import PluginError
from plugins.registry import Registry
from teacher.writing import Greedy, Sample

REGISTRY = Registry.load(entry_points=False)


def test_a_way_is_a_name_or_a_name_with_options():
    assert way_of("greedy", REGISTRY) == Greedy()
    assert way_of({"use": "sample", "temperature": 0.5}, REGISTRY) == Sample(
        temperature=0.5
    )
    assert way_of({"use": "beam", "beams": 3}, REGISTRY).kept == 3
    assert way_of({"use": "beam", "beams": 3, "texts": 1}, REGISTRY).fields() == {
        "do_sample": False,
        "num_beams": 3,
        "num_return_sequences": 1,
        "length_penalty": 1.0,
    }


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("greedi", "did you mean 'greedy'"),
        ({"use": "beam", "beam": 3}, "beam"),
        ({"use": "beam", "beams": 1}, "beams is 1; give 2 or more"),
        ({"use": "beam", "beams": 2, "texts": 3}, "texts is 3; give 1 to 2"),
        ({"use": "sample", "temperature": 0}, "use greedy"),
        ({"use": "sample", "top_p": 1.5}, r"top_p is 1.5; give a share in \(0, 1\]"),
        ({"use": "sample", "texts": "two"}, "texts"),
        ({"use": "diverse", "texts": 5, "candidates": 4}, "candidates is 4"),
        ({"temperature": 1}, "registered name"),
    ],
)
def test_what_cannot_be_written_so_is_refused_by_name(chosen, words):
    with pytest.raises((InputError, PluginError), match=words):
        way_of(chosen, REGISTRY)
