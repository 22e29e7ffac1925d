"""What this machine offers a run, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warn", "fail"]

STALE_LOCK_SECONDS = 600
"""Age from which a lock of torch's extension builder is taken for abandoned."""

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "safetensors",
    "scikit-learn",
    "matplotlib",
)
"""Libraries without which nothing runs; their lowest versions are in pyproject.toml."""

LOW_DISK_GB = 10
"""Free space below which a run may not fit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the doctor's table."""

    topic: str
    state: State
    found: str
    advice: str = ""
    """What to do; empty where nothing is wrong."""


def examine(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Look at everything a run depends on, one finding at a time.

    A check that itself breaks becomes a failed finding, so that one broken package
    does not hide the rest.

    Args:
        environ: environment variables; None for this process's.
    """
    env = os.environ if environ is None else environ
    checks: dict[str, Callable[[Mapping[str, str]], Iterator[Finding]]] = {
        "python": _python,
        "packages": _packages,
        "deepspeed": _deepspeed,
        "devices": _devices,
        "compiler": _compiler,
        "extension locks": _extension_locks,
        "slurm": _slurm,
        "hub": _hub,
        "zoo": _zoo,
        "plugins": _plugins,
        "disk": _disk,
        "extras": _extras,
        "fonts": _fonts,
    }
    for topic, check in checks.items():
        try:
            yield from check(env)
        except Exception as error:  # a diagnosis must outlive what it diagnoses
            advice = "reinstall what the message names, or report it"
            yield Finding(topic, "fail", f"{type(error).__name__}: {error}", advice)


def _python(_: Mapping[str, str]) -> Iterator[Finding]:
    state = f"{platform.python_version()} at {sys.executable}"
    yield Finding("python", "ok", state)


def _packages(_: Mapping[str, str]) -> Iterator[Finding]:
    floors = _floors()
    for name in PACKAGES:
        version, floor = _version(name), floors.get(name, "0")
        wanted = f"'{name}>={floor}'" if name in floors else name
        if version is None:
            yield Finding(name, "fail", "not installed", f"pip install {wanted}")
        elif _numbers(version) < _numbers(floor):
            advice = f"pip install --upgrade {wanted}"
            yield Finding(name, "warn", f"{version}, tested from {floor}", advice)
        else:
            yield Finding(name, "ok", version)


def _deepspeed(_: Mapping[str, str]) -> Iterator[Finding]:
    if importlib.util.find_spec("deepspeed") is None:
        return
    started = time.monotonic()
    code = "import deepspeed, deepspeed.comm"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        advice = "reinstall deepspeed, or train with train.engine=torch"
        yield Finding("deepspeed import", "fail", last[:200], advice)
    else:
        seconds = time.monotonic() - started
        yield Finding("deepspeed import", "ok", f"loads in {seconds:.1f} s")


def _devices(_: Mapping[str, str]) -> Iterator[Finding]:
    import torch

    from align.products.cpu import ISA, WITHOUT_AMX, avoid_broken_amx
    from experiments.assemble.precision import hardware_has_bf16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        names = [torch.cuda.get_device_name(i) for i in range(count)]
        yield Finding("accelerators", "ok", ", ".join(names))
        bf16 = hardware_has_bf16()
        yield Finding(
            "bf16",
            "ok" if bf16 else "warn",
            "on the GPU: train.bf16=auto takes it" if bf16 else "this GPU has none",
            "" if bf16 else "use train.fp16=true in place of train.bf16",
        )
        return
    state = f"none; {cores or os.cpu_count()} CPU cores, {torch.get_num_threads()} used"
    advice = "fine for quickstart; real models want a GPU"
    yield Finding("accelerators", "warn", state, advice)
    if avoid_broken_amx() or os.environ.get(ISA) == WITHOUT_AMX:
        state = "this CPU reports AMX and faults when it is used"
        advice = f"mtkd sets {ISA}={WITHOUT_AMX}; set it for your own programs too"
        yield Finding("amx", "warn", state, advice)
    if hardware_has_bf16():
        yield Finding("bf16", "ok", "fast on this CPU: train.bf16=auto takes it")
    else:
        advice = "leave train.bf16 off, or auto: it works here, no faster than float32"
        yield Finding("bf16", "warn", "this CPU has no tiles for it", advice)


def _compiler(_: Mapping[str, str]) -> Iterator[Finding]:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    ninja = shutil.which("ninja") or importlib.util.find_spec("ninja")
    if compiler and ninja:
        yield Finding("compiler", "ok", compiler)
        return
    missing = " and ".join(
        name for name, at in (("a C++ compiler", compiler), ("ninja", ninja)) if not at
    )
    advice = "not needed on a CPU; for DeepSpeed's own kernels install g++ and ninja"
    yield Finding("compiler", "warn", f"no {missing}", advice)


def _extension_locks(env: Mapping[str, str]) -> Iterator[Finding]:
    given = env.get("TORCH_EXTENSIONS_DIR")
    home = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given) if given else home / "torch_extensions"
    locks = [*folder.glob("*/lock"), *folder.glob("*/*/lock")]
    stale = [lock for lock in locks if _age(lock) > STALE_LOCK_SECONDS]
    if stale:
        names = ", ".join(str(lock) for lock in stale[:3])
        advice = "every run which builds there waits for ever: delete these files"
        yield Finding("extension locks", "fail", names, advice)
    elif locks:
        advice = "a build is under way; if none is, delete the lock"
        yield Finding("extension locks", "warn", str(locks[0]), advice)
    else:
        yield Finding("extension locks", "ok", f"none under {folder}")


def _slurm(env: Mapping[str, str]) -> Iterator[Finding]:
    if job := env.get("SLURM_JOB_ID"):
        nodes = env.get("SLURM_JOB_NUM_NODES", "?")
        yield Finding("slurm", "ok", f"inside job {job}, {nodes} node(s)")
    elif sbatch := shutil.which("sbatch"):
        yield Finding("slurm", "ok", f"{sbatch}: sbatch scripts/run_multi_teacher.sh")
    else:
        state = "not here: `bash scripts/run_multi_teacher.sh` runs on this machine"
        yield Finding("slurm", "ok", state)


def _hub(env: Mapping[str, str]) -> Iterator[Finding]:
    home = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME", "~/.cache"))
    default = Path(home) / ("hub" if env.get("HF_HOME") else "huggingface/hub")
    cache = Path(env.get("HF_HUB_CACHE") or default).expanduser()
    models = sorted(path.name for path in cache.glob("models--*"))
    held = f"{len(models)} model(s) in {cache}"
    if env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        if models:
            yield Finding("hub", "ok", f"offline (HF_HUB_OFFLINE); {held}")
        else:
            advice = "use local folders or zoo: names, or unset HF_HUB_OFFLINE"
            yield Finding("hub", "warn", f"offline (HF_HUB_OFFLINE); {held}", advice)
    else:
        state = f"online, not tried; {held}"
        yield Finding("hub", "ok", state)


def _zoo(_: Mapping[str, str]) -> Iterator[Finding]:
    from teacher.zoo import list_zoo

    entries = list_zoo()
    missing = [entry.name for entry in entries if not entry.built]
    if missing:
        advice = "`mtkd zoo build` makes them; quickstart does it itself"
        yield Finding("zoo", "warn", f"not built: {', '.join(missing)}", advice)
    else:
        yield Finding("zoo", "ok", f"{len(entries)} models in {entries[0].path.parent}")


def _plugins(env: Mapping[str, str]) -> Iterator[Finding]:
    from plugins.registry import Registry

    registry = Registry.load(strict=False, environ=env)
    for failure in registry.failures:
        advice = (
            "no run starts with it: repair or uninstall it, or leave it out by "
            f"--skip-plugin {failure.name}"
        )
        yield Finding("plugin", "fail", str(failure), advice)
    strangers = {e.distribution for e in registry.entries()} - {"mtkd", "-"}
    state = ", ".join(sorted(strangers)) or "none but the built-in ones"
    yield Finding("plugins", "ok", state)


def _disk(env: Mapping[str, str]) -> Iterator[Finding]:
    from align.support.cache_folder import cache_folder

    cache = cache_folder(env)
    for topic, folder in (("disk, here", Path.cwd()), ("disk, cache", cache)):
        there = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(there).free / 1e9
        state = f"{free:.0f} GB free at {there}"
        if not os.access(there, os.W_OK):
            advice = "give run.dir (or MTKD_CACHE) a folder you may write"
            yield Finding(topic, "fail", f"{there} is not writable", advice)
        elif free < 1:
            advice = "free some space, or put run.dir and MTKD_CACHE elsewhere"
            yield Finding(topic, "fail", state, advice)
        elif free < LOW_DISK_GB:
            advice = "enough for quickstart; real models need more"
            yield Finding(topic, "warn", state, advice)
        else:
            yield Finding(topic, "ok", state)


def _extras(_: Mapping[str, str]) -> Iterator[Finding]:
    extras = {
        "pyarrow": ("reads .parquet and .arrow text", "pip install 'mtkd[parquet]'"),
        "zstandard": ("reads .zst text, packs stores", "pip install 'mtkd[zstd]'"),
        "gguf": ("converts .gguf models", "pip install 'mtkd[models]'"),
        "tensorboard": ("shows metrics live", "pip install tensorboard"),
    }
    for name, (use, command) in extras.items():
        version = _version(name)
        if version is None:
            state = f"not installed; it {use}"
            yield Finding(name, "warn", state, f"only if you need it: {command}")
        else:
            yield Finding(name, "ok", f"{version}, {use}")


WRITTEN = {"Chinese": "深度学习", "Japanese": "かなカナ", "Korean": "한국어"}
"""A few characters of each, whose fonts matplotlib does not bring."""


def _fonts(_: Mapping[str, str]) -> Iterator[Finding]:
    if importlib.util.find_spec("matplotlib") is None:
        return
    from align.pictures.fonts import BASE, INSTALL, fonts_for

    by_script = {name: fonts_for(text) for name, text in WRITTEN.items()}
    lacking = [name for name, fonts in by_script.items() if fonts.missing]
    if lacking:
        said = f"none shows {' or '.join(lacking)}: pictures give code points"
        yield Finding("fonts", "warn", said, f"only if you need it: install {INSTALL}")
        return
    used = dict.fromkeys(f for fonts in by_script.values() for f in fonts.families)
    names = ", ".join(name for name in used if name != BASE)
    yield Finding("fonts", "ok", f"{names} shows {', '.join(WRITTEN)}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _floors() -> dict[str, str]:
    """The lowest version of each library that we are declared to work with."""
    try:
        requirements = importlib.metadata.requires("mtkd") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        return {}
    matches = (re.fullmatch(r"([\w.-]+)>=([\w.]+)", line) for line in requirements)
    return {match[1]: match[2] for match in matches if match}


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0
