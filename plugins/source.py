"""The files that a plugin is made of, and what they come to."""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

CODE = frozenset({".py", ".pyx", ".so", ".pyd", ".c", ".cc", ".cpp", ".h", ".cu"})
"""Suffixes of code."""
SETTINGS = frozenset({".json", ".yaml", ".yml", ".toml", ".txt", ".cfg", ".ini"})
"""Suffixes of what code may read beside it."""
LARGE = 2**20
"""Bytes from which a file beside code is data, which is not read."""


def digest(plugin: object) -> str:
    """SHA-256 over a plugin's source files: names within it, and bytes.

    Args:
        plugin: a module, or an object with hooks, whose class' module counts.

    Returns:
        64 hexadecimal digits; empty where there is no file to read, as for what is
        typed into an interpreter.
    """
    files = source_files(plugin)
    if not files:
        return ""
    hashed = hashlib.sha256()
    for path in files:
        # by name alone: the same plugin at another place is the same plugin
        hashed.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def source_files(plugin: object) -> list[Path]:
    """The files of a plugin: its module or whole package, and helpers beside it.

    A helper is a module which the plugin's own modules hold, or of which they hold a
    class or function, neither installed for itself nor Python's.
    """
    first = plugin if isinstance(plugin, ModuleType) else inspect.getmodule(plugin)
    waiting: list[ModuleType | None] = [first or inspect.getmodule(type(plugin))]
    met, files = set[str](), set[Path]()
    elsewhere = _elsewhere()
    while waiting:
        module = waiting.pop()
        if module is None or module.__name__ in met:
            continue
        met.add(module.__name__)
        files |= set(_files_of(module))
        waiting += [m for m in _held(module) if _is_helper(m, elsewhere)]
    return sorted(files, key=lambda path: (path.name, str(path)))


def _files_of(module: ModuleType) -> Iterable[Path]:
    """The file of a module; of a package, or of what lies in one, all code in it."""
    parts = module.__name__.split(".")
    for length in range(1, len(parts) + 1):
        package = sys.modules.get(".".join(parts[:length]))
        folders = list(getattr(package, "__path__", ()))
        if folders and getattr(package, "__file__", None):  # else others share it
            return [path for folder in folders for path in _code_in(Path(folder))]
    file = getattr(module, "__file__", None)
    return [Path(file)] if file and Path(file).is_file() else []


def _code_in(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        if "__pycache__" in path.parts or not path.is_file():
            continue
        small = path.suffix in SETTINGS and path.stat().st_size < LARGE
        if path.suffix in CODE or small:
            yield path


def _held(module: ModuleType) -> list[ModuleType]:
    """Modules that a module holds, or of which it holds something, each once."""
    held = {
        id(other): other
        for value in list(vars(module).values())
        if isinstance(
            other := value
            if isinstance(value, ModuleType)
            else sys.modules.get(str(getattr(value, "__module__", ""))),
            ModuleType,
        )
    }
    return list(held.values())


def _is_helper(module: ModuleType, elsewhere: list[Path]) -> bool:
    file = getattr(module, "__file__", None)
    if not file:
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in elsewhere)


def _elsewhere() -> list[Path]:
    """Where Python, installed packages and this project lie."""
    paths = sysconfig.get_paths()
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    places = [Path(paths[kind]) for kind in kinds]
    places += [Path(entry) for entry in sys.path if "-packages" in entry]
    ours = ("align", "teacher", "fuse", "student", "plugins", "experiments")
    places += [Path(__file__).parents[1] / name for name in ours]
    return [place.resolve() for place in places]
