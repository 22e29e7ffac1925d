import pytest

from align.foreign.inside import OutsideError, check_name, file_inside, refuse_links_out

OUTSIDE = [
    "../victim",
    "/etc/passwd",
    "a/../../x",
    "a/..",
    "..",
    ".",
    "",
    "C:/x",
    "c:x",
    "a\\..\\..\\x",
    "a\0b",
    "a\nb",
    "//server/share",
    "./../x",
    None,
    3,
    ["a"],
]


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_a_name_that_leads_anywhere_but_down_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(OutsideError, match="names the file") as refused:
        check_name(name, tmp_path / "manifest.json")
    assert "\n" not in str(refused.value) and "\0" not in str(refused.value)
    assert str(tmp_path / "manifest.json") in str(refused.value)


@pytest.mark.parametrize("name", ["a", "a/b.json", "..a", "a..b", ".hidden", "a/./b"])
def test_a_name_within_the_folder_is_taken_as_it_is(tmp_path, name):
    said_by = tmp_path / "manifest.json"
    assert check_name(name, said_by) == name
    assert file_inside(tmp_path, name, said_by) == tmp_path / name


@pytest.fixture
def folder(tmp_path):
    """A folder to look after, beside what it must not reach."""
    (tmp_path / "victim" / "deep").mkdir(parents=True)
    (tmp_path / "victim" / "deep" / "file").write_text("keep")
    inside = tmp_path / "folder"
    (inside / "a").mkdir(parents=True)
    (inside / "a" / "file").write_text("ours")
    return inside


def test_a_link_to_a_file_a_folder_or_another_link_outside_is_refused(folder):
    victim = folder.parent / "victim"
    links = {
        "file": victim / "deep" / "file",
        "folder": victim,
        "relative": "../victim",
        "dangling": victim / "nothing",
        "second": folder / "folder",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
        with pytest.raises(OutsideError, match="leads out of"):
            file_inside(folder, name, folder / "manifest.json")
    for name in reversed(links):
        with pytest.raises(OutsideError, match="is a link that leads out of"):
            refuse_links_out(folder)
        (folder / name).unlink()
    refuse_links_out(folder)


def test_a_name_through_a_linked_folder_is_refused(folder):
    (folder / "a" / "b").symlink_to(folder.parent / "victim")
    with pytest.raises(OutsideError, match="leads out of"):
        file_inside(folder, "a/b/deep/file", folder / "manifest.json")


def test_links_within_a_folder_and_a_linked_folder_itself_are_taken(folder):
    (folder / "b").symlink_to("a/file")
    (folder / "c").symlink_to("a")
    refuse_links_out(folder)
    assert file_inside(folder, "c/file", folder / "m").read_text() == "ours"
    whole = folder.parent / "linked"
    whole.symlink_to(folder)
    refuse_links_out(whole)
    assert file_inside(whole, "b", whole / "m").read_text() == "ours"


def test_a_link_in_a_circle_ends_nothing(folder):
    (folder / "round").symlink_to("round")
    refuse_links_out(folder)
