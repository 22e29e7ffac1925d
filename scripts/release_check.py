"""Whether what would be released can be installed and used without this checkout.

    make release-check

builds the source distribution and, from it alone, the wheel; compares their files with
the checkout's; installs the wheel into a new environment elsewhere, by the versions of
``constraints.txt`` and no extras; and runs ``mtkd`` there, ``mtkd quickstart --tiny``
last, whose student plain transformers then loads. It takes a few minutes and leaves
nothing behind but, with ``--keep FOLDER``, the two files. ``--shared`` has the new
environment take the libraries of this one, as CI does: only the wheel is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("align", "teacher", "fuse", "student", "plugins", "experiments")
BENCHES = "experiments/bench/"
SHIPPED = (".py", ".yaml", ".json", "py.typed", ".css", ".html", ".js", ".zip")
TRIED = (
    ["--version"],
    ["doctor"],
    ["plugins", "list"],
    ["recipes", "list"],
    ["config", "show", "real"],
    ["quickstart", "--tiny"],
)
"""Commands that must end with 0 in the new environment."""


_PLACE = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
_LOAD = (
    "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
    "s = 'runs/quickstart-tiny/student'; m = M.from_pretrained(s); "
    "t = T.from_pretrained(s); m(**t('The sea', return_tensors='pt'))"
)
"""What is done with the student of the quickstart."""


class ReleaseError(Exception):
    """Why this checkout cannot be released, in one line."""


def main(words: Sequence[str] | None = None) -> None:
    """Build, compare, install, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="put the two files into this folder")
    parser.add_argument(
        "--shared", action="store_true", help="use the libraries of this environment"
    )
    options = parser.parse_args(words)
    keep = options.keep
    try:
        version = released_version(ROOT)
        with tempfile.TemporaryDirectory(prefix="mtkd-release-") as folder:
            archive, wheel = build(Path(folder) / "dist")
            check_names(wheel_names(wheel), of_wheel=True)
            check_names(archive_names(archive), of_wheel=False)
            program = install(wheel, Path(folder) / "venv", options.shared)
            try_out(program, version, Path(folder))
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                for file in (archive, wheel):
                    shutil.copy(file, keep)
    except ReleaseError as error:
        raise SystemExit(f"release-check: {error}") from None
    print(f"release-check: {wheel.name} and {archive.name} are fit to be released")


def released_version(root: Path) -> str:
    """The version, which the citation must name too.

    Raises:
        ReleaseError: they differ.
    """
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(text)["project"]["version"]
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    if cited["version"] != version:
        raise ReleaseError(
            f"pyproject.toml has version {version}, CITATION.cff {cited['version']}; "
            "give both the same"
        )
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"\n## {version}" not in changes:
        print(f"note: CHANGELOG.md has no part '## {version}' yet; a release needs it")
    return version


def shipped_files(root: Path) -> set[str]:
    """What a wheel must hold: the packages' files that git has, without benches."""
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return {
        name
        for name in listed.stdout.splitlines()
        if name.endswith(SHIPPED) and not name.startswith(BENCHES)
    }


def check_names(names: Collection[str], *, of_wheel: bool) -> None:
    """Compare a distribution's files with the checkout's.

    Raises:
        ReleaseError: a file is missing, or one is in it that should not be.
    """
    what = "the wheel" if of_wheel else "the source distribution"
    shipped = shipped_files(ROOT)
    if missing := sorted(shipped - set(names)):
        raise ReleaseError(f"{what} lacks {missing[0]} and {len(missing) - 1} more")
    if odd := odd_names(names, shipped, of_wheel=of_wheel):
        raise ReleaseError(f"{what} holds {odd[0]} and {len(odd) - 1} more")


def odd_names(
    names: Collection[str], shipped: Collection[str], *, of_wheel: bool
) -> list[str]:
    """Files that do not belong into a distribution: tests, benches, strangers."""
    ours = tuple(f"{package}/" for package in PACKAGES)
    metadata = "mtkd-" if of_wheel else "mtkd.egg-info/"
    odd = []
    for name in sorted(names):
        top = "/" not in name and not of_wheel  # PKG-INFO, pyproject.toml and the like
        belongs = (
            name in shipped if name.startswith(ours) else name.startswith(metadata)
        )
        if not (belongs or top):
            odd.append(name)
    return odd


def build(folder: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is made from it."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return archive, wheel


def wheel_names(wheel: Path) -> list[str]:
    """Files of a wheel."""
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


def archive_names(archive: Path) -> list[str]:
    """Files of a source distribution, without the folder that holds them all."""
    with tarfile.open(archive) as file:
        members = [member.name for member in file.getmembers() if member.isfile()]
    return [name.partition("/")[2] for name in members]


def install(wheel: Path, venv: Path, shared: bool = False) -> Path:
    """Install a wheel into a new environment; returns its ``mtkd``.

    Args:
        wheel: the file.
        venv: the environment's folder, made anew.
        shared: take this environment's libraries by their path, which leaves out what
            is installed here as editable, such as the checkout.
    """
    run(sys.executable, "-m", "venv", venv, cwd=wheel.parent)
    pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    if shared:
        here, there = sysconfig.get_paths()["purelib"], ["-c", _PLACE]
        site = run(venv / "bin" / "python", *there, cwd=wheel.parent).strip()
        run(*pip, "install", "-q", "--no-deps", wheel, cwd=wheel.parent)
        (Path(site) / "shared.pth").write_text(f"{here}\n", encoding="utf-8")
        return venv / "bin" / "mtkd"
    constraints = ROOT / "constraints.txt"
    run(*pip, "install", "-q", "-c", constraints, wheel, cwd=wheel.parent)
    return venv / "bin" / "mtkd"


def try_out(program: Path, version: str, folder: Path) -> None:
    """Run ``mtkd`` in an empty folder, where nothing of the checkout is on the path.

    Raises:
        ReleaseError: a command fails, or answers for another version or place.
    """
    empty = folder / "empty"
    empty.mkdir()
    home = run(
        program.parent / "python",
        "-c",
        "import align; print(align.__file__)",
        cwd=empty,
    )
    if not Path(home.strip()).is_relative_to(program.parents[1]):
        raise ReleaseError(f"align is imported from {home.strip()}, not the wheel")
    for words in TRIED:
        answer = run(program, *words, cwd=empty)
        if words == ["--version"] and answer.strip() != f"mtkd {version}":
            raise ReleaseError(f"mtkd --version answers {answer.strip()}")
    run(program.parent / "python", "-c", _LOAD, cwd=empty)


def run(*command: object, cwd: Path) -> str:
    """A command's output; it sees no checkout by an environment variable.

    Raises:
        ReleaseError: it fails.
    """
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VENV")}
    done = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise ReleaseError(f"{' '.join(words[:4])} ... ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
