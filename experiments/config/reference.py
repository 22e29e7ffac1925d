"""Write the page of all settings from the dataclasses themselves.

    python -m experiments.config.reference > docs/config.md

Names, types and defaults come from the fields, meanings from the docstrings below
them, so that the page cannot disagree with the code.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from align.support.field_types import in_words
from experiments.config.parsing import plain
from experiments.config.presets import BuiltinPhases, builtin_presets
from experiments.config.schema import hints_of, join, named_section, section_of
from experiments.config.tree import Config
from plugins.options import options_of
from plugins.registry import KINDS, Registry
from student.terms.key_value import BUILT_IN, OBJECTIVES

_LEAD = """\
# Every setting

*Written by `python -m experiments.config.reference > docs/config.md`; edit the
docstrings in the code instead. How settings are read and which win:
[experiments](experiments.md).*

A setting's full name is its section and its key: `train.steps=200` on a command line,
`train: {steps: 200}` in a file. `mtkd config show` prints the same tree with the values
a run would use. A name that is not here is refused with the nearest one that is."""

_NAMES = """\
## Names that settings take

What comes with the platform; [plugins](plugins.md) add more, and `mtkd plugins list`
shows them all."""

_OPTIONS = """\
## Options of the built-in terms

In an entry of `loss.terms`, beside `use` and `weight`:
`loss: {terms: {kd_hot: {use: kd, weight: 0.5, temperature: 4}}}`. Each is described
as the setting that holds where it is not given; `teachers` is a list of names."""

_PHASES = """\
## What the built-in phases set

Everything else is as the general sections say. `phase.all` and `phase.NAME` win over
these values."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One row of the page."""

    name: str
    """Dotted, as a command line says it."""
    takes: str
    """Its type in words."""
    default: str
    """As YAML; empty where it must be given."""
    meaning: str
    """The field's docstring, in one line."""


def settings_of(cls: type, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of one section, without the sections inside it.

    Args:
        cls: a dataclass.
        prefix: the section's name.

    Raises:
        ValueError: a field without a docstring.
    """
    meanings = field_docs(cls)
    for field in dataclasses.fields(cls):
        hint = hints_of(cls)[field.name]
        if section_of(hint)[0] is None and named_section(hint) is None:
            if field.name not in meanings:
                raise ValueError(
                    f"{cls.__name__}.{field.name} has no docstring; say below it what "
                    "it means, in which unit and range"
                )
            yield Setting(
                join(prefix, field.name),
                in_words(hint, quote=lambda choice: f"`{choice}`"),
                _default(field),
                meanings[field.name],
            )


@cache
def field_docs(cls: type) -> Mapping[str, str]:
    """The string below each field of a dataclass, in one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            text = below.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                assert isinstance(field.target, ast.Name)
                docs[field.target.id] = " ".join(text.value.split())
    return docs


def sections(cls: type = Config, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yield every section's name and dataclass, the top level first.

    ``phase`` is left out: its keys are those of the general sections, and of the
    phase's ``teachers``, which is yielded as ``phase.NAME.teachers``.
    """
    yield prefix, cls
    for key, hint in hints_of(cls).items():
        named = named_section(hint)
        inside, partial = section_of(hint if named is None else named)
        if partial and inside is not None:
            yield f"{key}.NAME", inside
            yield f"{key}.NAME.teachers", hints_of(inside)["teachers"]
        elif inside is not None:
            name = join(prefix, key)
            yield from sections(inside, name if named is None else f"{name}.NAME")


def reference() -> str:
    """Compose the whole page."""
    blocks = [_LEAD]
    for name, cls in sections():
        rows = list(settings_of(cls, name))
        if not rows:
            continue
        title = f"`{name}`" if name else "Top level"
        purpose = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
        blocks += [f"## {title}", _code(purpose), _table(rows)]
    blocks += [_OPTIONS, _options_table(), _NAMES, _names_table()]
    blocks += [_PHASES, _presets_table()]
    return "\n\n".join(blocks) + "\n"


def _table(rows: list[Setting]) -> str:
    lines = ["| setting | takes | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        default = f"`{row.default}`" if row.default else "*must be given*"
        cells = (f"`{row.name}`", row.takes, default, _code(row.meaning))
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _options_table() -> str:
    """Options of one name stand for one setting, whichever terms have them."""
    rows: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for kind, term in BUILT_IN.items():
        options = options_of(OBJECTIVES[kind])
        section = term.short.partition(".")[0]
        for name, hint in hints_of(options).items():
            takes = in_words(hint, quote=lambda choice: f"`{choice}`")
            takes = takes.removesuffix(" or null")
            rows.setdefault((name, section), (takes, []))[1].append(f"`{kind}`")
    lines = ["| option | takes | else | terms |", "|---|---|---|---|"]
    for (name, section), (takes, kinds) in rows.items():
        cells = (f"`{name}`", takes, f"`{section}.{name}`", ", ".join(kinds))
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _names_table() -> str:
    registry = Registry.load(plugins=(BuiltinPhases(),), entry_points=False)
    lines = ["| kind | names |", "|---|---|"]
    for kind in KINDS:
        names = registry.names(kind)
        if kind == "phase":
            names = list(builtin_presets())
        listed = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| {kind.replace('_', ' ')} | {listed} |")
    return "\n".join(lines)


def _presets_table() -> str:
    lines = ["| phase | sets |", "|---|---|"]
    for phase, preset in builtin_presets().items():
        given = [
            f"`{name}={_yaml(value)}`"
            for section, values in preset.items()
            if isinstance(values, Mapping)
            for name, value in _leaves(values, section)
        ]
        lines.append(f"| `{phase}`: {preset['title']} | {', '.join(given)} |")
    return "\n".join(lines)


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, join(prefix, key))
        else:
            yield join(prefix, key), value


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _yaml(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _yaml(field.default_factory())
    return ""


def _yaml(value: Any) -> str:
    import yaml

    text = yaml.safe_dump(plain(value), default_flow_style=True, width=1000)
    return text.removesuffix("...\n").strip() if value != "" else '""'


def _code(text: str) -> str:
    return text.replace("``", "`")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
