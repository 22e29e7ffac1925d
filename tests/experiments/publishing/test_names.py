import pytest

from experiments.publishing.names import public_name, without_places


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("zoo:strong/gpt2-prose", "zoo:strong/gpt2-prose"),
        ("pkg:smollm2", "pkg:smollm2"),
        ("openai-community/gpt2", "openai-community/gpt2"),
        ("gpt2", "gpt2"),
        ("/home/somebody/llama", "llama"),
        ("~/llama", "llama"),
        ("../models/llama/", "llama"),
        ("models/of/ours", "ours"),
        ("store:/scratch/somebody/kv", "store:kv"),
        ("news=/data/secret/news.jsonl", "news=news.jsonl"),
        ("server:http://10.0.0.7:8000/v1", "server:(address left out)"),
        ("two\nlines/of/text", "two\nlines/of/text"),
        ("", ""),
        ("{source} in French, /home/jo:", "{source} in French, /home/jo:"),
        ("http://10.0.0.1:8000/v1", "http://(address left out)/v1"),
        ("C:\\Users\\jo\\llama", "llama"),
    ],
)
def test_a_name_of_the_hub_stays_and_a_place_loses_its_folders(name, shown):
    assert public_name(name) == shown


def test_a_folder_beside_us_is_a_place_though_it_looks_like_a_name(
    tmp_path, monkeypatch
):
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert public_name("org/name") == "org/name"
    monkeypatch.chdir(tmp_path)
    assert public_name("org/name") == "name"


def test_a_config_keeps_its_shape_and_its_numbers():
    config = {
        "run": {"dir": "private", "seed": 3},
        "store": {"dir": "a/b", "name": "kv"},
        "data": {"train": ["a=/x/y.txt", "zoo"], "date": None},
    }
    assert without_places(config) == {
        "run": {"seed": 3},
        "store": {"name": "kv"},
        "data": {"train": ["a=y.txt", "zoo"], "date": None},
    }
