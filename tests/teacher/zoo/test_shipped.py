import json
import shutil

import pytest

from align.errors import MachineError
from align.support.digest import sha256_of
from teacher.zoo import build, build_zoo, shipped
from teacher.zoo.recipes import recipes
from teacher.zoo.ship import ship
from teacher.zoo.shipped import FOLDER, MANIFEST
from tests.everyday import some_daily


def test_what_is_shipped_is_every_teacher_of_the_present_recipes_whole():
    manifest = json.loads((FOLDER / MANIFEST).read_text())
    teachers = {n for n, r in recipes().items() if r.role == "teacher"}
    assert manifest.keys() == teachers
    for name in teachers:
        kept = shipped.shipped(recipes()[name])
        assert kept is not None, name
        assert sha256_of(kept.archive) == kept.facts["sha256"], name


def test_what_is_shipped_is_small_and_packing_cost_less_than_a_hundredth():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 10_000_000
    for facts in json.loads((FOLDER / MANIFEST).read_text()).values():
        for domain, bits in facts["bits_per_char"].items():
            assert bits < 1.01 * facts["bits_per_char_trained"][domain]


@pytest.fixture(scope="module")
def weights(tiny_zoo, tmp_path_factory):
    """The tiny zoo's GPT-2 as it would be shipped."""
    recipe, folder = recipes("tiny")["gpt2-prose"], tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("teacher.zoo.ship.recipes", lambda scale: {recipe.name: recipe})
        ship(tiny_zoo["gpt2-prose"].parent, folder, "tiny")
    return folder


@pytest.fixture
def beside(weights, tmp_path, monkeypatch):
    """A copy of that beside the code."""
    recipe = recipes("tiny")["gpt2-prose"]
    folder = shutil.copytree(weights, tmp_path / "weights")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    shipped._manifest.cache_clear()
    yield recipe
    shipped._manifest.cache_clear()


def test_a_shipped_teacher_is_unpacked_and_one_trained_here_is_trained(
    beside, tmp_path, monkeypatch
):
    trained = []
    monkeypatch.setattr(build, "_train", lambda recipe, *_: trained.append(recipe.name))
    cache = tmp_path / "cache"
    (folder,) = build_zoo(["gpt2-prose"], cache, False, "tiny").values()
    manifest = json.loads((folder / build.MANIFEST).read_text())
    assert manifest["shipped"] and not trained
    assert (folder / "tokenizer.json").is_file()
    assert build_zoo(["gpt2-prose"], cache, False, "tiny")
    assert not trained
    build_zoo(["gpt2-prose"], cache, False, "tiny", fresh=True)
    assert trained == ["gpt2-prose"]


def test_a_changed_recipe_is_trained_and_not_unpacked(beside):
    from dataclasses import replace

    assert shipped.shipped(beside) is not None
    train = replace(beside.train, seed=99)
    assert shipped.shipped(replace(beside, train=train)) is None


def test_a_damaged_archive_says_what_to_do(beside, tmp_path):
    archive = shipped.FOLDER / "gpt2-prose.zip"
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(MachineError, match=r"gpt2-prose.zip is damaged.*--fresh gpt2"):
        build_zoo(["gpt2-prose"], tmp_path / "cache", False, "tiny")


@pytest.mark.parametrize(
    "name",
    some_daily(
        ["model.safetensors", "tokenizer.json", "zoo.json"],
        lambda name: name == "tokenizer.json",
    ),
)
def test_a_damaged_model_of_the_cache_is_named_and_unpacked_again(
    beside, tmp_path, capsys, name
):
    cache = tmp_path / "cache"
    (folder,) = build_zoo(["gpt2-prose"], cache, False, "tiny").values()
    whole = (folder / name).read_bytes()
    place = len(whole) // 2
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    (folder / name).write_bytes(flipped)
    with pytest.raises(
        FileNotFoundError, match=rf"is damaged .*{name}.*mtkd zoo build"
    ):
        build.zoo_path("gpt2-prose", cache, "tiny")
    build_zoo(["gpt2-prose"], cache, True, "tiny")
    assert (folder / name).read_bytes() == whole
    assert "gpt2-prose is damaged" in capsys.readouterr().err


def test_a_model_that_an_earlier_version_kept_without_digests_is_good(beside, tmp_path):
    (folder,) = build_zoo(["gpt2-prose"], tmp_path, False, "tiny").values()
    manifest = build.read_manifest(folder)
    del manifest["digests"], manifest["sizes"]
    (folder / build.MANIFEST).write_text(json.dumps(manifest))
    assert build.zoo_path("gpt2-prose", tmp_path, "tiny") == folder
