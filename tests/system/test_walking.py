# SPDX-License-Identifier: Apache-2.0
from flashwam.system.walking import folders_below


def found(root):
    return [path.relative_to(root).as_posix() for path in folders_below(root)]


def test_folders_are_met_in_order_and_hidden_ones_are_not(tmp_path):
    for name in ("b/c", "a", ".hidden/d", "b/.e"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    assert found(tmp_path) == [".", "a", "b", "b/c"]
    assert found(tmp_path / ".hidden") == [".", "d"]
    assert found(tmp_path / "b" / "c") == ["."]
    assert list(folders_below(tmp_path / "file")) == list(folders_below(tmp_path / "none")) == []


def test_links_are_followed_and_a_second_name_counts(tmp_path):
    (tmp_path / "far" / "inner").mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    for name in ("one", "other"):
        (root / name).symlink_to(tmp_path / "far")
    (root / "gone").symlink_to(tmp_path / "nothing")
    assert found(root) == [".", "one", "one/inner", "other", "other/inner"]
    (tmp_path / "name").symlink_to(root)
    assert found(tmp_path / "name") == found(root)


def test_links_that_lead_back_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    for name, target in (("a/b/up", "."), ("a/self", "a/self"), ("c/to_a", "a"), ("a/to_c", "c")):
        (tmp_path / name).symlink_to(tmp_path / target)
    assert found(tmp_path / "a") == [".", "b", "b/up", "b/up/c", "to_c"]
