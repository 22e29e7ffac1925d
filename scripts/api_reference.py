"""The pages under ``docs/api``: what each package offers, from its docstrings.

    make docs                          # this, among others
    python scripts/api_reference.py    # this alone

A package's page has the names of its ``__all__``, and of the modules that authors of
plugins work with (:data:`ALSO`), under the module that defines them. griffe reads the
sources, so signatures stand as they were written, and sections of docstrings (Args,
Returns, Raises, Source) come apart.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "api"
PACKAGES = ("align", "teacher", "fuse", "student", "plugins", "experiments")
ALSO = {
    "align": ("align.errors", "align.reading", "align.sizes", "align.views"),
    "student": ("student.objective", "student.places", "student.step_outputs"),
    "plugins": ("plugins.hookspecs", "plugins.contracts"),
}
"""Modules whose every public name is listed beside those of the package."""
WIDTH = 88
"""Columns of a signature; a longer one takes a line for each parameter."""

Kind = griffe.DocstringSectionKind


def pages() -> dict[str, str]:
    """Every page by the name of its file."""
    return {f"{package}.md": page(package) for package in PACKAGES}


def page(package: str) -> str:
    """A package's page as Markdown."""
    modules = by_module(package)
    parts = [
        f"# {package}: reference",
        f"{_summary(_loaded(package))} Written by `make docs` from the docstrings; how "
        "the pieces fit, and why, is on [the pages](../index.md), and so are the "
        f"letters of the [axes](../index.md#axes). `from {package} import NAME` gives "
        "what the list names; what is marked ° comes from its module alone.",
        "\n".join(_contents(package, modules)),
    ]
    for module, names in modules.items():
        path = _path(_loaded(module))
        parts += [
            f"## Module {module}",
            f"{_summary(_loaded(module))} [Source](../../{path})",
        ]
        parts += [entry(_loaded(module)[name], name) for name in names]
    return "\n\n".join(parts) + "\n"


def by_module(package: str) -> dict[str, list[str]]:
    """Public names by the module that defines them, both in alphabetical order."""
    offered = importlib.import_module(package)
    names = {(_home(package, name), name) for name in offered.__all__}
    for module in ALSO.get(package, ()):
        members = importlib.import_module(module)
        public = getattr(members, "__all__", None) or _defined_in(module)
        names |= {(_home(module, name), name) for name in public}
    modules: dict[str, list[str]] = {}
    for module, name in sorted(names, key=lambda at: (at[0], at[1].lower(), at[1])):
        modules.setdefault(module, []).append(name)
    return modules


def entry(obj: griffe.Object | griffe.Alias, name: str) -> str:
    """One name: how it is called, what it is, takes, gives and raises."""
    parts = [f"### {name}", f"```python\n{signature(obj, name)}\n```"]
    parts += [*_texts(obj), "\n".join(_facts(obj))]
    if isinstance(obj, griffe.Class) and (members := "\n".join(_members(obj))):
        parts += ["Fields and methods:" if parts[-1] else "", members]
    return "\n\n".join(part for part in parts if part)


def signature(obj: griffe.Object | griffe.Alias, name: str) -> str:
    """How a name is called or, for a constant, what it is."""
    if isinstance(obj, griffe.Attribute):
        kind = f": {obj.annotation}" if obj.annotation else ""
        value = f" = {obj.value}" if len(str(obj.value)) <= WIDTH - len(name) else ""
        return f"{name}{kind or value}"
    if not isinstance(obj, griffe.Function | griffe.Class):
        return name
    if isinstance(obj, griffe.Class) and _is_protocol(obj):
        return f"class {name}(Protocol)"
    parameters = list(_parameters(obj))
    result = ""
    if isinstance(obj, griffe.Function) and obj.returns is not None:
        result = f" -> {obj.returns}"
    one_line = f"{name}({', '.join(parameters)}){result}"
    if len(one_line) <= WIDTH:
        return one_line
    return f"{name}(\n" + "".join(f"    {p},\n" for p in parameters) + f"){result}"


def _is_protocol(cls: griffe.Class) -> bool:
    return any(str(base).split(".")[-1] == "Protocol" for base in cls.bases)


def _parameters(obj: griffe.Function | griffe.Class) -> Iterator[str]:
    """Parameters as written, with the marks between their kinds."""
    kinds, before, starred = griffe.ParameterKind, None, False
    for parameter in (p for p in obj.parameters if p.name not in ("self", "cls")):
        if before is kinds.positional_only and parameter.kind is not before:
            yield "/"
        if parameter.kind is kinds.keyword_only and not starred:
            yield "*"
        before = parameter.kind
        starred |= before in (kinds.var_positional, kinds.keyword_only)
        star = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(before, "")
        text = star + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and not star:
            text += f" = {parameter.default}"
        yield text


def _texts(obj: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Paragraphs of a docstring outside its sections."""
    if obj.docstring is None:
        return
    for section in obj.docstring.parse("google", warnings=False):
        if section.kind is Kind.text:
            for block in section.value.split("\n\n"):
                lines = block.splitlines()
                if all(line.startswith("    ") for line in lines):
                    code = "\n".join(line[4:] for line in lines)
                    yield f"```text\n{code}\n```"
                elif any(line.startswith("- ") for line in lines):
                    yield "\n".join(map(_marked_up, lines))
                else:
                    yield _line(block)


def _facts(obj: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Lines of a list: parameters, what comes back, what is raised, the source."""
    for section in _sections(obj):
        if section.kind is Kind.parameters:
            for item in section.value:
                yield f"- `{item.name}`: {_line(item.description)}"
        elif section.kind in (Kind.returns, Kind.yields):
            said = _line(" ".join(item.description for item in section.value))
            yield f"- **{section.kind.value}** {said}"
        elif section.kind is Kind.raises:
            for item in section.value:
                yield f"- **raises** `{item.annotation}`: {_line(item.description)}"
        elif section.kind is Kind.admonition:
            title = (section.title or section.value.annotation).lower()
            yield f"- **{title}** {_line(section.value.description)}"


def _members(cls: griffe.Class) -> Iterator[str]:
    """Documented fields, properties and methods of a class."""
    for name, member in cls.members.items():
        if (name.startswith("_") and name != "__call__") or not member.docstring:
            continue
        said = " ".join(_texts(member))
        if isinstance(member, griffe.Function):
            call = " ".join(signature(member, name).split())
            call = call.replace("( ", "(").replace(", )", ")").replace("__call__", "")
            yield (
                f"- `.{call}`: {said}" if name != "__call__" else f"- `{call}`: {said}"
            )
            yield from (f"  {line}" for line in _facts(member))
        else:
            kind = f": {member.annotation}" if member.annotation else ""
            yield f"- `.{name}{kind}`: {said}"


def _sections(
    obj: griffe.Object | griffe.Alias,
) -> Sequence[griffe.DocstringSection]:
    documented = [obj] if obj.docstring else []
    constructor = obj.members.get("__init__") if isinstance(obj, griffe.Class) else None
    if isinstance(constructor, griffe.Function) and constructor.docstring:
        documented.append(constructor)
    return [
        section
        for each in documented
        for section in each.docstring.parse("google", warnings=False)
    ]


def _summary(module: griffe.Module) -> str:
    text = module.docstring.value if module.docstring else ""
    return _line(text.split("\n\n")[0])


def _line(text: str) -> str:
    """Text of a docstring as Markdown on one line."""
    return " ".join(_marked_up(text).split())


def _marked_up(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    parts = re.split(r"(`[^`]*`)", text)  # code stands as it is
    parts[::2] = (re.sub(r"<(?=[A-Za-z/!])", r"\\<", part) for part in parts[::2])
    return "".join(parts)


def _contents(package: str, modules: dict[str, list[str]]) -> Iterator[str]:
    offered = set(importlib.import_module(package).__all__)
    for module, names in modules.items():
        marks = ("" if name in offered else "°" for name in names)
        links = (f"[{n}](#{n.lower()}){m}" for n, m in zip(names, marks, strict=True))
        yield f"- [{module}](#module-{module.replace('.', '')}): {', '.join(links)}"


def _home(module: str, name: str) -> str:
    """The module whose source defines what another offers under a name."""
    value = getattr(importlib.import_module(module), name)
    home = getattr(value, "__module__", None)
    if home is not None and getattr(value, "__qualname__", None) == name:
        return home
    member = _loaded(module)[name]
    return member.final_target.module.path if member.is_alias else module


def _loaded(module: str) -> griffe.Module:
    package = module.partition(".")[0]
    if package not in _LOADED.modules_collection:
        _LOADED.load(package)
    return _LOADED.modules_collection[module]


_LOADED = griffe.GriffeLoader(search_paths=[str(ROOT)])


def _defined_in(module: str) -> list[str]:
    """Public names that a module without ``__all__`` defines and documents."""
    return [
        name
        for name, member in _loaded(module).members.items()
        if not (name.startswith("_") or member.is_alias or member.is_module)
        and member.docstring
    ]


def _path(module: griffe.Module) -> str:
    return Path(str(module.filepath)).resolve().relative_to(ROOT).as_posix()


def main() -> None:
    """Write the pages."""
    sys.path.insert(0, str(ROOT))  # also where the checkout is not installed
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
