"""The evidence page as a plan: its sections, their commands, and their configs."""

from __future__ import annotations

import glob
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from align.errors import InputError

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.yaml)\n")
_TEXTS = "--texts"


@dataclass(frozen=True, slots=True)
class Command:
    """One line of a shell block."""

    text: str
    """As the page has it, without a comment."""

    @property
    def words(self) -> list[str]:
        """As a shell would cut it, patterns of file names aside."""
        return shlex.split(self.text)

    @property
    def fetches(self) -> bool:
        """Whether it brings a package or a model from elsewhere."""
        return self.words[0] == "pip" or self.words[:3] == ["mtkd", "models", "fetch"]

    @property
    def resumes_by_budget(self) -> bool:
        """Whether it takes ``--budget``, and goes on when it is given again."""
        return "experiments.bench.quality" in self.words

    @property
    def wanted_files(self) -> list[str]:
        """Texts of the reader's own that it reads."""
        words = self.words
        if _TEXTS not in words:
            return []
        after = words[words.index(_TEXTS) + 1 :]
        option = next((w for w in after if w.startswith("--")), None)
        given = after[: after.index(option)] if option else after
        return [word.partition("=")[2] for word in given if "=" in word]

    def argv(self, folder: Path) -> list[str]:
        """What is started, in a folder, by this interpreter.

        Raises:
            InputError: it is of a program that the page may not start.
        """
        words = [
            name
            for word in self.words
            for name in (_matching(folder, word) if "*" in word else [word])
        ]
        program, *rest = words
        starts = {
            "mtkd": [sys.executable, "-m", "experiments.cli"],
            "python": [sys.executable],
            "pip": [sys.executable, "-m", "pip"],
        }
        if program not in starts:
            raise InputError(
                f"{self.text!r} starts {program!r}; a command of the page begins with "
                f"one of {', '.join(starts)}"
            )
        if self.fetches and program == "mtkd":
            rest.append("--yes")
        return [*starts[program], *rest]


@dataclass(frozen=True, slots=True)
class Section:
    """What one heading measures."""

    title: str
    commands: tuple[Command, ...]


def read_page(page: Path) -> tuple[list[Section], dict[str, str]]:
    """The sections that measure something, in order, and the page's config files.

    Args:
        page: Markdown; a shell block holds commands, and a YAML block whose first line
            is ``# NAME.yaml`` is the file that they name so.

    Raises:
        FileNotFoundError: there is no such page.
    """
    text = page.read_text(encoding="utf-8")
    files = {}
    sections = []
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        commands: list[Command] = []
        for language, block in _BLOCK.findall(part):
            named = _FILE.match(block)
            if language == "yaml" and named:
                files[named[1]] = block
            elif language == "bash":
                lines = block.replace("\\\n", " ").splitlines()
                plain = (_without_comment(line) for line in lines)
                commands += [Command(line) for line in plain if line]
        if commands:
            title = part.partition("\n")[0].strip()
            sections.append(Section(title, tuple(dict.fromkeys(commands))))
    return sections, files


def chosen(sections: Sequence[Section], wanted: Sequence[str]) -> list[Section]:
    """The sections whose titles contain one of these words, whatever their case.

    Raises:
        InputError: one of the words is in no title.
    """
    for words in wanted:
        if not any(words.lower() in s.title.lower() for s in sections):
            titles = "\n  ".join(section.title for section in sections)
            raise InputError(f"no section has {words!r} in its title:\n  {titles}")
    lower = [words.lower() for words in wanted] or [""]
    return [s for s in sections if any(words in s.title.lower() for words in lower)]


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#\s.*$", "", line).strip()


def _matching(folder: Path, pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, root_dir=folder)) or [pattern]
