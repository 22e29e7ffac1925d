import pytest

from align.foreign.inside import OutsideError
from align.support.cache_folder import made_folder
from teacher.packages.manifest import NAME, Making, changed_files, write_manifest


def test_every_file_is_digested_also_in_folders_within(tmp_path):
    with made_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        (folder / "pooling" / "deep").mkdir(parents=True)
        (folder / "pooling" / "deep" / "config.json").write_text("{}")
        manifest = write_manifest(folder, title="m", source="s", conversion="none")
    made = tmp_path / "model"
    assert set(manifest.files) == {"config.json", "pooling/deep/config.json"}
    assert (made / NAME).is_file() and not changed_files(made, manifest.files)
    (made / "pooling" / "deep" / "config.json").write_text("[]")
    assert changed_files(made, manifest.files) == ["pooling/deep/config.json"]


def test_weights_that_are_kept_are_counted_for_people():
    def kept(*weights):
        here, before = weights
        of = {"use": "layers", "options": {}, "layers": [0], "layers_of_source": 2}
        return Making(**of, parameters=here, parameters_of_source=before).kept

    assert kept(81_400_000, 134_500_000) == "81.4 M of 134.5 M"
    assert kept(13_056, 1_200_000) == "13,056 of 1.2 M"


def test_a_file_that_leads_out_of_the_model_is_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    manifest = write_manifest(folder, title="m", source="s", conversion="none")
    files = {"../victim": manifest.files["config.json"]}
    with pytest.raises(OutsideError, match=f"{NAME} names the file '../victim'"):
        changed_files(folder, files)
