"""A YAML document of bounded size and depth; numbers are those of YAML 1.2."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

from align.errors import InputError

MOST_CHARS = 1 << 22
"""Of a document; ten thousand paths of files are a quarter of it."""
DEEPEST = 64
"""Mappings and lists inside each other."""
MOST_VALUES = 200_000
"""Keys and values, those that an alias stands for counted each time."""
_TAGS = ("float", "int", "timestamp")
"""What YAML 1.1 reads otherwise, or what is left a text."""
_FLOAT = re.compile(
    r"""[-+]?(?:\d[\d_]*)(?:\.[\d_]*)(?:[eE][-+]?\d+)?$
    |[-+]?(?:\d[\d_]*)(?:[eE][-+]?\d+)$
    |[-+]?\.\d[\d_]*(?:[eE][-+]?\d+)?$
    |[-+]?\.(?:inf|Inf|INF)$
    |\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
"""A number with a point or an exponent."""
_INT = re.compile(r"[-+]?(?:0|[1-9][\d_]*)$|0b[01_]+$|0x[\da-fA-F_]+$")
"""``010`` and ``1:30``, which YAML 1.1 takes for 8 and 90, stay texts."""

_READ_APART = re.compile("[\t\r!?\x85\u2028\u2029\ufeff\ud800-\udfff]")
"""Where a text has none of these, libyaml and PyYAML's own parser read it alike."""


def read_yaml(text: str, source: str) -> Any:
    """Parse YAML, reading ``1e-4`` as a number and a day as a text.

    Args:
        text: the document.
        source: what to call it in an error, such as the file's path.

    Returns:
        Mappings, lists, texts, numbers, booleans and None.

    Raises:
        InputError: not YAML, more than the bounds of this module, or a key stands
            twice in one mapping, of which YAML would keep the last; names the place.
    """
    import yaml

    if len(text) > MOST_CHARS:
        raise InputError(
            f"{source} has {len(text):,} characters, and a YAML document may have "
            f"{MOST_CHARS:,}; is it the right file?"
        )
    try:
        node = _quick_node(text)
        loader = _loader()("" if node is not None else text)
        if node is None:
            node = loader.get_single_node()
        _settle_keys(node, source, "", set())
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1} column {mark.column + 1}" if mark else ""
        if error.note is not None:
            raise InputError(f"{source}{place} {error.problem}; {error.note}") from None
        raise InputError(
            f"{source}{place} is not valid YAML: {error.problem}; "
            "check indentation, quotes and brackets there"
        ) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source} is not valid YAML: {reason}") from None


def _quick_node(text: str) -> Any:
    """What libyaml makes of a document, in a third of the time of PyYAML's own parser.

    None where PyYAML lacks it, where the two may differ, and of what is empty, no YAML
    or out of bounds: the slow one then says why and where.
    """
    import yaml

    composer = None if _READ_APART.search(text) else _composer()
    if composer is None:
        return None
    try:
        if not _is_shallow(text):
            return None
        node = composer(text).get_single_node()
        return node if node is not None and _is_bounded(node) else None
    except yaml.YAMLError:
        return None


def _is_shallow(text: str) -> bool:
    """Whether a document may be composed: libyaml's composer calls itself for what lies
    within, and a document that is deep enough ends the process."""
    import yaml

    parser, depth = yaml.cyaml.CParser(text), 0  # type: ignore[attr-defined]
    while (event := parser.get_event()) is not None and depth <= DEEPEST:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.StreamEndEvent):
            break
    return depth <= DEEPEST


def _is_bounded(root: Any) -> bool:
    """Whether a document comes to no more values than this module allows."""
    weights: dict[int, float] = {}

    def weight(node: Any) -> float:
        if id(node) in weights:  # an alias
            return weights[id(node)]
        weights[id(node)] = math.inf  # where it stands within itself
        size = 1.0
        for part in node.value if isinstance(node.value, list) else ():
            for inner in part if isinstance(part, tuple) else (part,):
                size += weight(inner)
        weights[id(node)] = size
        return size

    return weight(root) <= MOST_VALUES


@functools.cache
def _composer() -> Any:
    """libyaml's parser with the plain values of :func:`_loader`; None where PyYAML was
    built without it."""
    import yaml

    if not yaml.__with_libyaml__:
        return None

    libyaml: Any = yaml.cyaml

    class Composer(libyaml.CParser, yaml.resolver.BaseResolver):  # type: ignore[misc]
        yaml_implicit_resolvers = _loader().yaml_implicit_resolvers

        def __init__(self, text: str) -> None:
            libyaml.CParser.__init__(self, text)
            yaml.resolver.BaseResolver.__init__(self)

    return Composer


@functools.cache
def _loader() -> Any:
    """PyYAML's safe loader within bounds, of the plain types alone."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Counts as it composes, so that nothing is built that is too much."""

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self._depth = 0
            self._values = 0
            self._weights: dict[int, int] = {}  # of nodes that are whole, by identity

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent):
                node = super().compose_node(parent, index)
                weight = self._weights.get(id(node))
                if weight is None:
                    raise _too_much(
                        f"{event.anchor!r} stands within itself",
                        "write out what it is to hold",
                        event.start_mark,
                    )
                self._count(weight, event.start_mark)
                return node
            before = self._values
            self._count(1, event.start_mark)
            self._depth += 1
            if self._depth > DEEPEST:
                raise _too_much(
                    f"lies more than {DEEPEST} mappings and lists deep",
                    "close those that are open",
                    event.start_mark,
                )
            node = super().compose_node(parent, index)
            self._depth -= 1
            self._weights[id(node)] = self._values - before
            return node

        def _count(self, values: int, mark: Any) -> None:
            self._values += values
            if self._values > MOST_VALUES:
                raise _too_much(
                    f"comes to more than {MOST_VALUES:,} values, those of aliases "
                    "counted each time",
                    "leave out what is repeated",
                    mark,
                )

        def construct_yaml_int(self, node: Any) -> int:
            try:
                return int(super().construct_yaml_int(node))
            except ValueError:
                raise _too_much(
                    "is a number of too many digits",
                    "write a shorter one, or put a text in quotes",
                    node.start_mark,
                ) from None

    def other(tag: str) -> str:
        return f"tag:yaml.org,2002:{tag}"

    replaced = [other(tag) for tag in _TAGS]
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in replaced]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(other("float"), _FLOAT, list("-+0123456789."))
    Loader.add_implicit_resolver(other("int"), _INT, list("-+0123456789"))
    plain_types = ("null", "bool", "int", "float", "str", "seq", "map")
    Loader.yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in map(other, plain_types)
    }
    Loader.add_constructor(other("int"), Loader.construct_yaml_int)
    return Loader


def _too_much(problem: str, advice: str, mark: Any) -> Exception:
    import yaml

    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark, note=advice)


def _settle_keys(node: Any, source: str, path: str, visited: set[int]) -> None:
    """Refuse keys that stand twice, of which the last would win, and make them texts.

    A teacher called ``on`` or ``1`` is no truth value and no number.
    """
    import yaml

    if id(node) in visited:  # an anchor that is used again
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _settle_keys(item, source, f"{path}[{index}]", visited)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
            continue
        name = f"{path}.{key.value}" if path else str(key.value)
        if key.value in first:
            places = _places(first[key.value].start_mark, key.start_mark)
            raise InputError(
                f"{source}: {name!r} stands twice, {places}; YAML would keep the last "
                "alone: keep one, or put their settings together"
            )
        first[key.value] = key
        key.tag = "tag:yaml.org,2002:str"
        _settle_keys(value, source, name, visited)


def _places(first: Any, second: Any) -> str:
    """Two marks by line, or by column where they share one."""
    if first.line == second.line:
        columns = f"columns {first.column + 1} and {second.column + 1}"
        return f"in line {first.line + 1} at {columns}"
    return f"in lines {first.line + 1} and {second.line + 1}"
