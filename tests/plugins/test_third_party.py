"""A stranger's real package: built, installed, discovered, and true to its kinds."""

import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from align.errors import MtkdError
from experiments.config.presets import BuiltinPhases
from experiments.config.tree import load_config
from experiments.record.run_dir import read_run
from experiments.report.page import report_text
from experiments.run.driver import run_training
from plugins import Registry
from plugins.scaffold import new_plugin
from tests.experiments.conftest import no_pictures  # noqa: F401 runs draw nothing
from tests.experiments.small_runs import small_config
from tests.fresh import answers, given

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parent / "third_party"


def pip_install(package: Path, target: Path) -> None:
    """Build and install without network, into a folder of its own."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    options = ["--no-build-isolation", "--no-index", "--target", str(target)]
    done = subprocess.run(
        [*command, *options, str(package)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def python(code: str, *words: str, path: list[Path]) -> str:
    """Run code with words in a fresh interpreter that sees these folders."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MTKD_")}
    env["PYTHONPATH"] = os.pathsep.join(str(p) for p in [*path, ROOT])
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env=env,
        cwd=path[0],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site folder with the example package as pip leaves it there; that pip does,
    :func:`test_a_run_uses_the_package_by_name_until_it_is_uninstalled` sees."""
    site = tmp_path_factory.mktemp("third_party") / "site"
    shutil.copytree(PACKAGE / "src", site, ignore=lambda *_: ["__pycache__"])
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    facts = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(facts)
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


DESCRIBE = "import json, plugins; print(json.dumps(plugins.Registry.load().describe()))"
FOUND = """
import importlib, os, sys

def answer(value):
    folder, allowed, modules = value
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    if allowed is not None:
        os.environ["MTKD_PLUGINS"] = allowed
    from plugins import Registry
    registry = Registry.load(modules)
    if modules:
        return registry.names("router")
    if allowed is not None:
        return registry.describe()
    from plugins.contracts.check import check
    broken = [
        f"{entry.name} {result.name}: {result.detail}"
        for entry in registry.entries()
        if entry.distribution == "mtkd-example-plugin"
        for result in check(entry.kind, entry.value)
        if not result.ok
    ]
    return [registry.describe(), broken]
"""


@pytest.fixture(scope="module")
def seen(site):
    """What fresh processes see of it: installed, not allowed, and from a checkout."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MTKD_")}
    values = [
        (str(site), None, []),
        (str(site), "", []),
        (str(PACKAGE / "src"), None, ["mtkd_example_plugin"]),
    ]
    names = ("installed", "not allowed", "checkout")
    return dict(zip(names, answers(FOUND, values, environ), strict=True))


@pytest.mark.slow
def test_the_installed_package_is_discovered(seen):
    rows, _ = given(seen["installed"])
    theirs = [r for r in rows if r["distribution"] == "mtkd-example-plugin"]
    assert [(r["kind"], r["name"]) for r in theirs] == [
        ("router", "dirichlet"),
        ("router", "readers"),
        ("router", "turns"),
        ("space", "sketch"),
        ("objective", "huber_k"),
        ("objective", "uncertain_k"),
        ("distance", "chordal"),
        ("projector", "shared"),
        ("balancer", "dwa"),
        ("selector", "novel"),
    ]
    assert {(r["plugin"], r["version"]) for r in theirs} == {("example", "1.2.3")}


@pytest.mark.slow
def test_the_installed_package_is_left_alone_where_it_is_not_allowed(seen):
    rows = given(seen["not allowed"])
    assert {r["distribution"] for r in rows} == {"mtkd"}


@pytest.mark.slow
def test_what_it_offers_keeps_the_contracts(seen):
    _, broken = given(seen["installed"])
    assert broken == []


@pytest.mark.slow
def test_it_is_usable_from_a_checkout_without_being_installed(seen):
    assert "dirichlet" in given(seen["checkout"])


@pytest.fixture
def example(monkeypatch):
    """The package from its source, in this process."""
    monkeypatch.syspath_prepend(str(PACKAGE / "src"))
    yield Registry.load([BuiltinPhases(), "mtkd_example_plugin"], entry_points=False)
    for name in [n for n in sys.modules if n.startswith("mtkd_example_plugin")]:
        sys.modules.pop(name)


def fused_by(router, space):
    fuse = {"fusion_method": router, "space": space}
    rule = {"min": 2, "max": 4, "families": "any"}
    return {"phase": {"dual": {"teachers": rule, "fuse": fuse}}}


@pytest.mark.slow
def test_a_strangers_space_and_router_train_with_their_options(
    example, tiny_zoo, tmp_path, monkeypatch
):
    """Weights, the place to meet, a distance, a projector: all somebody else's."""
    from mtkd_example_plugin import UncertainKeys

    fit, fitted = UncertainKeys.fit, []

    def noted(term, sample):
        fit(term, sample)
        fitted.append(float(term.log_variance))

    monkeypatch.setattr(UncertainKeys, "fit", noted)
    changes = fused_by(
        {"use": "readers", "sharpness": 4.0}, {"use": "sketch", "size": 6}
    )
    chordal = {"use": "chordal", "power": 1.0}
    term = {"use": "match", "distance": chordal, "projector": "shared"}
    noise = {"use": "uncertain_k", "weight": 0.1}
    terms = {"noise": noise, "chord": term, "alike": {"use": "match", "site": "hidden"}}
    changes["loss"] = {"terms": terms, "select": {"novel": {"gain": 0.5, "on": "kv"}}}
    config = load_config(small_config(tmp_path, tiny_zoo, changes))
    run = run_training(config, registry=example)
    lines = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    train = [
        line for line in lines if line["kind"] == "train" and line["arm"] == "main"
    ]
    assert all(line["terms"]["kv_k"] > 0 for line in train)
    # Fitted before the first step, after the contract's trials on other samples.
    distance, noise = (train[0]["terms"][name] for name in ("kv_k", "noise"))
    start = fitted[-1]
    assert noise == pytest.approx(distance * math.exp(-start) + start, rel=1e-3)
    assert all(0 < line["terms"]["chord"] < 2 for line in train)
    assert all(0 < line["terms"]["alike"] < 1 for line in train)
    report = report_text(read_run(run))
    for kind, name in {
        "router": "readers",
        "space": "sketch",
        "distance": "chordal",
        "projector": "shared",
        "selector": "novel",
    }.items():
        assert f"The {kind} `{name}` is of the plugin `mtkd_example_plugin`" in report
    weights = [line["weights"] for line in lines if line["kind"] == "routing"]
    for by_teacher in weights[0].values():
        assert sum(by_teacher.values()) == pytest.approx(1, abs=1e-3)
        assert len(set(by_teacher.values())) == 2  # no equal shares
    kept = (run / "config.yaml").read_text()
    assert "sharpness: 4.0" in kept and "size: 6" in kept and "power: 1.0" in kept


@pytest.mark.slow
def test_a_strangers_router_chooses_before_teachers_read(example, tiny_zoo, tmp_path):
    """Fails when what a run is handed does not say that it knows beforehand."""
    changes = fused_by({"use": "turns", "salt": "b"}, "student")
    changes["phase"]["dual"]["fuse"] |= {"choice": "hard", "routing_level": "sample"}
    config = load_config(small_config(tmp_path, tiny_zoo, changes))
    run = run_training(config, registry=example)
    choice = read_run(run).choices()["dual"]
    assert sorted(choice.asked.values()) == [0, 1]  # there is one domain


@pytest.mark.parametrize(
    ("router", "space", "told"),
    [
        ({"use": "readers", "sharpness": "x"}, "student", "sharpness is 'x'; give a n"),
        ("readers", {"use": "sketch", "sise": 3}, "'fuse.space.sise'. Valid .*: size"),
        ({"use": "dirichlet", "prior": 0}, "student", "with prior: 0 .* prior > 0"),
    ],
)
def test_a_strangers_option_is_refused_before_any_work(
    example, tiny_zoo, tmp_path, router, space, told
):
    config = load_config(small_config(tmp_path, tiny_zoo, fused_by(router, space)))
    with pytest.raises(MtkdError, match=told):
        run_training(config, registry=example)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def scratch(tmp_path):
    """The interpreter of an environment of its own, which borrows what mtkd needs."""
    venv.EnvBuilder(symlinks=True).create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    (site_packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    return python


def pip(python: Path, *words: str) -> None:
    """Run this environment's pip on another environment."""
    command = [sys.executable, "-m", "pip", "--python", str(python), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


COMMANDS = """
import contextlib, io, json, sys
from experiments.cli import main
from tests.experiments.undrawn import draw_nothing

draw_nothing()
ended = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    ended.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""


def mtkd(python: Path, *lines: list[str]) -> list[tuple[int, str, str]]:
    """Run commands one after another in a fresh interpreter that sees this checkout.

    Args:
        python: the interpreter.
        lines: each the words after ``mtkd``.

    Returns:
        Of each its exit code, what it printed, and what it said.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("MTKD_")}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    env |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-c", COMMANDS, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return [tuple(ended) for ended in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_uses_the_package_by_name_until_it_is_uninstalled(
    scratch, tiny_zoo, tmp_path
):
    shutil.copytree(PACKAGE, tmp_path / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    pip(scratch, "install", *options, str(tmp_path / "source"))
    theirs = {
        "dirichlet": "router",
        "readers": "router",
        "turns": "router",
        "sketch": "space",
        "huber_k": "objective",
        "uncertain_k": "objective",
        "chordal": "distance",
        "shared": "projector",
        "dwa": "balancer",
        "novel": "selector",
    }
    changes = {
        "phases": ["routing"],
        "phase": {
            "routing": {
                "teachers": {"min": 2},
                "fuse": {
                    "router_type": {"use": "dirichlet", "prior": 2.0},
                    "space": {"use": "sketch", "size": 8},
                },
                "loss": {
                    "extra": {"huber_k": 0.5},
                    "balance": {"use": "dwa", "temperature": 1.0},
                    "outcome_every": 1,
                },
            }
        },
    }
    train = ["train", str(small_config(tmp_path, tiny_zoo, changes))]
    checks = [["plugins", "check", name] for name in theirs]
    lines = [["plugins", "list", "--json"], *checks, train]
    (_, listed, _), *checked, trained = mtkd(scratch, *lines)
    rows = json.loads(listed)["plugins"]
    assert theirs == {r["name"]: r["kind"] for r in rows if r["plugin"] == "example"}
    for name, (code, printed, said) in zip(theirs, checked, strict=True):
        assert code == 0 and "broken" not in printed, printed + said
        assert f"'{name}' of" in printed
    assert trained[0] == 0, trained[2]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    assert len(steps) == 2
    assert all(row["terms"]["huber_k"] > 0 for row in steps)
    assert all(row["balance"].keys() < row["terms"].keys() for row in steps)
    routing = [row for row in map(json.loads, lines) if row["kind"] == "routing"]
    for weights in routing[-1]["weights"].values():
        assert sum(weights.values()) == pytest.approx(1, abs=1e-3)

    pip(scratch, "uninstall", "--yes", "mtkd-example-plugin")
    built_in = [
        "run.name=another",
        "phase.routing.fuse.router_type=mlp",
        "phase.routing.fuse.space=losses",
        "phase.routing.loss.balance=none",
    ]
    # The finished run, a new one, and that with more and more of what is built in.
    gone = mtkd(scratch, train, *([*train, *built_in[:n]] for n in range(1, 5)))
    missing = [
        "router is called 'dirichlet'",
        "router is called 'dirichlet'",
        "space is called 'sketch'",
        "balancer is called 'dwa'",
        "objective is called 'huber_k'",
    ]
    known = "available: attention, confidence, constant, difficulty, fixed, gate"
    for (code, _, said), which in zip(gone, missing, strict=True):
        assert code == 2 and f"mtkd: error: no {which}" in said
    for _, _, said in gone[:2]:
        assert len(said.splitlines()) == 1 and known in said


SCAFFOLDED = f"""
{DESCRIBE}
import sys, pytest
print(pytest.main(["-q", sys.argv[1]]))
"""


@pytest.mark.slow
def test_a_scaffolded_package_installs_and_passes_its_own_tests(tmp_path):
    folder = new_plugin("spread", "router", tmp_path)
    pip_install(folder, tmp_path / "site")
    shown = python(SCAFFOLDED, str(folder / "tests"), path=[tmp_path / "site"])
    described, _, tested = shown.partition("\n")
    rows = json.loads(described)
    row = next(r for r in rows if r["distribution"] == "mtkd-spread")
    assert (row["kind"], row["name"]) == ("router", "spread")
    assert "2 passed" in tested
