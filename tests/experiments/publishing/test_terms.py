"""Who may be bound by whose terms."""

import pytest

from experiments.publishing.evidence import config_of
from experiments.publishing.terms import forbidden, licence_of, terms_of
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
