"""The pages under docs/ run, and they and SECURITY.md name only what exists."""

import importlib
import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = [page for page in PAGES if page.name != "config.md"]  # that one is generated
WRITTEN.append(ROOT / "SECURITY.md")

FILES = (".py", ".md", ".html", ".yaml", ".json", ".jsonl", ".txt")
"""Endings of names that stand for files."""


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line, code) of every fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    fenced = re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return [(text[: m.start()].count("\n") + 1, m[1]) for m in fenced]


def names(page: Path) -> set[str]:
    """What stands in single backticks, fences left out."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    return set(re.findall(r"`([^`\n]+)`", text))


@pytest.mark.parametrize(
    "page",
    [page for page in WRITTEN if blocks(page, "python")],
    ids=lambda page: page.name,
)
def test_the_python_of_a_page_runs_as_one_program(
    page, tiny_zoo, tmp_path, monkeypatch
):
    code = blocks(page, "python")
    monkeypatch.setenv("MTKD_CACHE", str(tiny_zoo["student"].parents[2]))
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for line, block in code:  # shifted, so that a failure shows the page's own line
        exec(compile("\n" * line + block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_a_page_calls_only_tests_that_exist(page):
    told = set(re.findall(r"\btest_\w+(?!\.py)\b", page.read_text(encoding="utf-8")))
    assert told - _tests() == set()


@cache
def _tests() -> frozenset[str]:
    """Names of files of tests, and of the functions in them."""
    files = [*(ROOT / "tests").rglob("test_*.py")]
    known = {path.stem for path in (*files, *(ROOT / "scripts").glob("test_*.py"))}
    for path in files:
        known.update(
            re.findall(r"^ *def (\w+)\(", path.read_text(encoding="utf-8"), re.M)
        )
    return frozenset(known)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_a_page_names_only_settings_and_modules_that_exist(page):
    for name in sorted(names(page)):
        match = re.fullmatch(r"([a-z_]+(?:\.[A-Za-z_]+)+)(?:=.*)?", name)
        if match and not name.endswith(FILES):
            known = _is_setting(match[1]) or _is_python(match[1])
            assert known, f"{page.name}: `{name}` is no setting and no module"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_a_page_names_only_files_that_exist(page):
    files = [n for n in names(page) if re.fullmatch(r"[\w/]+\.(py|sh)", n)]
    folders = [ROOT, ROOT / page.stem]
    for name in files:
        assert any((folder / name).is_file() for folder in folders), name


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_the_configs_of_a_page_load(page):
    from experiments.config.parsing import load_yaml
    from experiments.config.presets import builtin_presets
    from experiments.config.tree import load_config, resolve_phases

    for line, block in blocks(page, "yaml"):
        config = load_config(load_yaml(block, f"{page.name}:{line}"))
        assert resolve_phases(config, builtin_presets()), f"{page.name}:{line}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page):
    from experiments.cli import build_parser

    for line, block in blocks(page, "bash"):
        for command in block.splitlines():
            words = shlex.split(command, comments=True)
            if words[:1] == ["mtkd"]:
                _, rest = build_parser().parse_known_args(words[1:])
                odd = [w for w in rest if not re.match(r"[\w.]+=", w)]
                assert not odd, f"{page.name}:{line}: {command}: {odd}"


def test_every_page_is_on_the_map():
    linked = set(
        re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/index.md").read_text())
    )
    assert linked == {page.name for page in PAGES} - {"index.md"}


def _is_setting(name: str) -> bool:
    chosen = re.sub(r"(?<=^phase\.)\w+|(?<=^teachers\.)\w+", "<name>", name)
    chosen = re.sub(r"^loss\.terms\.\w+$", "loss.terms", chosen)
    return any(
        known == chosen or known.startswith(chosen + ".") for known in _settings()
    )


@cache
def _settings() -> frozenset[str]:
    from experiments.config.schema import valid_names
    from experiments.config.tree import Config

    return frozenset(valid_names(Config))


def _is_python(name: str) -> bool:
    """Whether a dotted name is a module of ours, or something in one."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[size:]:
            found = getattr(found, attribute, None)
        return found is not None
    return False


@pytest.fixture(scope="module")
def techniques():
    file = ROOT / "scripts" / "techniques.py"
    spec = importlib.util.spec_from_file_location("techniques", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["techniques"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["techniques"]


def test_the_page_of_techniques_is_up_to_date(techniques):
    page = ROOT / "docs/techniques.md"
    assert page.read_text(encoding="utf-8") == techniques.page(), "run: make docs"


def test_the_yaml_of_every_technique_is_a_config(techniques):
    import json

    from experiments.assemble.checks import check_settings
    from experiments.assemble.outputs import active_objectives
    from experiments.config.parsing import load_yaml
    from experiments.config.presets import builtin_presets, load_registry
    from experiments.config.tree import load_config, resolve_phases

    registry = load_registry()
    rows = [row for section in techniques.sections() for row in section.rows]
    assert len(rows) > 80
    for row in rows:
        said = techniques.settings(load_yaml(row.config, row.technique))
        words = [f"{name}={json.dumps(value)}" for name, value in said]
        config = load_config("quickstart", [*words, "phases=[multi_basic]"])
        phases = resolve_phases(config, builtin_presets())
        check_settings(config, phases, registry)
        assert active_objectives(phases[0], registry), row.technique


def test_every_row_of_the_survey_is_somewhere_once(techniques):
    sections = techniques.sections()
    done = {n for s in sections for row in s.rows for n in techniques.numbers(row.row)}
    others = [entry for s in sections for entry in s.elsewhere]
    elsewhere = [n for entry in others for n in techniques.numbers(entry.row)]
    parts = techniques.SURVEY.items()
    every = {f"{part}-{n}" for part, last in parts for n in range(1, last + 1)}
    assert len(elsewhere) == len(set(elsewhere))
    assert not done & set(elsewhere)
    assert done | set(elsewhere) == every
    for entry in others:
        assert entry.where or entry.but, entry
        assert not entry.where or (ROOT / "docs" / entry.where).is_file(), entry


def test_every_technique_is_held_by_tests_that_are_there(techniques):
    for section in techniques.sections():
        for row in section.rows:
            assert row.tests, row.technique
            for test in row.tests:
                path, _, name = test.partition("::")
                source = (ROOT / "tests" / path).read_text(encoding="utf-8")
                assert re.search(rf"^def {name}\(", source, re.M), test
