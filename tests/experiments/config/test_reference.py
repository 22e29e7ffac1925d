import dataclasses
import re
from pathlib import Path

import pytest

from experiments.config.reference import field_docs, reference, sections, settings_of
from experiments.config.schema import ANY_NAME, valid_names
from experiments.config.tree import GENERAL, Config

PAGE = Path(__file__).parents[3] / "docs" / "config.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m experiments.config.reference > docs/config.md"
    )


def test_every_setting_has_a_row_and_every_row_is_a_setting():
    listed = set(re.findall(r"^\| `([\w.]+)` \|", reference(), re.M))
    rows = {
        setting.name for name, cls in sections() for setting in settings_of(cls, name)
    }
    assert rows <= listed
    named = {name.replace(ANY_NAME, "NAME") for name in valid_names(Config)}
    general = tuple(f"phase.NAME.{section}" for section in GENERAL)
    leaves = {
        name
        for name in named
        if not any(other.startswith(name + ".") for other in named)
        and not name.startswith(general)
    }
    assert rows == leaves


def test_defaults_and_meanings_are_the_fields_own():
    @dataclasses.dataclass
    class Section:
        """A section."""

        share: float = 0.5
        """How much,
        in 0..1."""
        names: list[str] = dataclasses.field(default_factory=lambda: ["a"])
        """Who."""
        needed: int | None = dataclasses.field(kw_only=True)
        """Must be given."""

    first, second, third = settings_of(Section, "s")
    assert (first.name, first.takes, first.default) == ("s.share", "a number", "0.5")
    assert first.meaning == "How much, in 0..1."
    assert (second.takes, second.default) == ("a list, each entry a text", "[a]")
    assert (third.takes, third.default) == ("an integer or null", "")


def test_a_field_without_a_docstring_is_refused():
    @dataclasses.dataclass
    class Section:
        told: int = 1
        """What it is."""
        untold: int = 2

    assert field_docs(Section) == {"told": "What it is."}
    with pytest.raises(ValueError, match=r"Section\.untold has no docstring"):
        list(settings_of(Section))
