"""Who may be bound by whose terms."""

from pathlib import Path

import pytest

from experiments.publishing.evidence import config_of
from experiments.publishing.terms import forbidden, licence_of, terms_of
from teacher.packages.notices import licence_notices
from tests.experiments.publishing.conftest import model


def told(terms):
    return [(t.part, t.name, t.licence, t.redistributable) for t in terms]


def test_what_it_began_as_comes_first_then_all_teachers(finished):
    assert told(terms_of(config_of(finished))) == [
        ("weights", "base", "Apache-2.0", True),
        ("teaching", "gpt2-prose", "", None),
        ("teaching", "served", "", None),
        ("teaching", "strict", "Toy terms", False),
    ]


def test_weights_that_are_drawn_leave_the_tokenizers_terms(finished):
    config = config_of(finished)
    config["student"]["init"] = "fresh"
    first = terms_of(config)[0]
    assert (first.part, first.licence) == ("tokenizer", "Apache-2.0")
    config["student"]["tokenizer"] = "strict"
    first, second = terms_of(config)[:2]
    assert (first.part, first.name, first.redistributable) == (
        "tokenizer",
        "strict",
        False,
    )
    assert second.part == "teaching"


def test_a_teachers_terms_have_to_be_read_and_an_origins_cannot_be(finished, tmp_path):
    config = config_of(finished)
    terms = terms_of(config)
    (reason,) = forbidden(terms, None, ())
    assert "--terms strict" in reason
    assert forbidden(terms, None, ["strict"]) == []
    config["student"]["model"] = str(model(tmp_path / "kept", "Toy terms", False))
    (reason,) = forbidden(terms_of(config), "apache-2.0", ["strict"])
    assert "its weights come from kept, whose licence (Toy terms) forbids" in reason


@pytest.mark.parametrize(
    ("given", "licence"), [(None, "apache-2.0"), ("MIT", "mit"), ("", "apache-2.0")]
)
def test_a_licence_that_is_given_counts_more_than_its_origins(finished, given, licence):
    assert licence_of(terms_of(config_of(finished)), given) == licence


def test_without_any_licence_it_does_not_go(finished):
    config = config_of(finished)
    config["student"]["model"] = "zoo:student"
    del config["teachers"]["strict"]
    terms = terms_of(config)
    assert licence_of(terms, None) is None
    (reason,) = forbidden(terms, None, ())
    assert "--licence apache-2.0" in reason
    assert forbidden(terms, "mit", ()) == []


def test_an_origin_whose_files_are_not_found_is_not_handed_on(finished):
    config = config_of(finished)
    config["student"]["model"] = "models/strict"  # relative to another folder
    (reason, *_) = forbidden(terms_of(config), "mit", ["strict"])
    assert "the files of models/strict are not found from here" in reason
    assert "--terms" not in reason
    config = config_of(finished)
    config["teachers"] = {"gone": {"model": "/nowhere/gone"}}
    (reason,) = forbidden(terms_of(config), "mit", ())
    assert "or read them and say --terms gone" in reason
    assert forbidden(terms_of(config), "mit", ["gone"]) == []


def test_sources_without_files_have_no_terms_of_their_own(finished):
    config = config_of(finished)
    sources = ["phase:-1", "ema", "self", "server:http://h/v1", "zoo:qwen-code"]
    config["teachers"] = {str(i): {"model": m} for i, m in enumerate(sources)}
    assert forbidden(terms_of(config), "mit", ()) == []


def test_a_peer_has_the_terms_of_its_model(finished):
    config = config_of(finished)
    strict = config["teachers"].pop("strict")["model"]
    config["teachers"] = {"beside": {"model": f"peer:{strict}"}}
    (reason,) = forbidden(terms_of(config), "mit", ())
    assert "--terms beside" in reason


def test_a_student_of_another_run_goes_on_under_its_notice(finished, tmp_path):
    config = config_of(finished)
    strict = Path(config["teachers"].pop("strict")["model"])
    first = tmp_path / "first"
    first.mkdir()
    for name, text in licence_notices(strict).items():
        (first / name).write_text(text)
    config["student"]["model"] = str(first)
    (reason,) = forbidden(terms_of(config), "mit", ())
    assert "its weights come from first" in reason
    assert licence_notices(first) == licence_notices(strict)  # and so does the next


def test_one_licence_that_is_not_known_leaves_the_whole_unknown(finished, tmp_path):
    config = config_of(finished)
    (plain := tmp_path / "plain").mkdir()
    (plain / "config.json").write_text("{}")
    began = config["student"]["model"]
    config["student"] |= {"model": str(plain), "tokenizer": began}
    assert licence_of(terms_of(config), None) is None
