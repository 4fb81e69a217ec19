import os
import time

import pytest

from moco_eval.data import folder_index, index_cache
from moco_eval.data.catalog import open_pretraining
from moco_eval.data.folder_index import find_images
from moco_eval.data.packed import PackedNames


def settle(root):
    """Let every folder under ``root`` look as if it had last changed a while ago."""
    then = time.time() - 60
    for folder, _, _ in os.walk(root):
        os.utime(folder, (then, then))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Four folders of 30 files, remembered although they are few."""
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 120)
    for name in ("a", "b", "b/deep", "c"):
        folder = tmp_path / "tree" / name
        folder.mkdir(parents=True)
        for number in range(30):
            (folder / f"{number:03d}.jpg").write_bytes(b"x" * number)
    settle(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def listed(monkeypatch):
    """The folders that are read, as they are."""
    folders = []
    scandir = os.scandir

    def noting(path):
        # What clears away the test's files asks by descriptor.
        if not isinstance(path, int):
            folders.append(path.name)
        return scandir(path)

    monkeypatch.setattr(folder_index.os, "scandir", noting)
    return folders


def test_images_come_folder_by_folder_and_by_name(tmp_path):
    for name in ("b/2.jpg", "b/10.PNG", "a/z/1.webp", "a/9.jpeg", "top.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    for name in ("b/notes.txt", "b/.hidden.jpg", "b/jpg", ".cache/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    index = find_images(tmp_path)
    assert list(index.names) == ["top.tif", "a/9.jpeg", "a/z/1.webp", "b/10.PNG", "b/2.jpg"]
    assert index.folders == ("", "a", "a/z", "b")
    assert index.counts.tolist() == [1, 1, 1, 2]
    assert index.sizes.tolist() == [5] * 5
    assert list(index.below().names) == list(index.names)[1:]


def test_a_link_to_a_folder_is_followed_but_not_in_circles(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.jpg").write_bytes(b"")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "up").symlink_to(root)
    assert list(find_images(root).names) == ["linked/1.jpg"]


def test_what_is_remembered_is_what_was_found(tree, listed):
    first = find_images(tree)
    assert sorted(listed) == ["a", "b", "c", "deep", "tree"]
    listed.clear()
    second = find_images(tree)
    assert listed == []
    assert list(second.names) == list(first.names)
    assert (second.folders, second.sizes.tolist()) == (first.folders, first.sizes.tolist())
    assert len(second.names) == 120


def test_only_a_folder_that_changed_is_read_again(tree, listed):
    find_images(tree)
    (tree / "b" / "new.jpg").write_bytes(b"1")
    (tree / "c" / "007.jpg").unlink()
    listed.clear()
    names = list(find_images(tree).names)
    assert sorted(listed) == ["b", "c"]
    assert len(names) == 120
    assert "b/new.jpg" in names
    assert "c/007.jpg" not in names


def test_a_folder_that_changed_a_moment_ago_may_change_again_within_the_tick(tree, listed):
    os.utime(tree / "c", (time.time() + 60,) * 2)
    find_images(tree)
    listed.clear()
    find_images(tree)
    assert listed == ["c"]


def test_folders_come_and_go(tree):
    find_images(tree)
    (tree / "b" / "deep").rename(tree / "d")
    assert find_images(tree).folders == ("", "a", "b", "c", "d")


def test_images_that_were_all_written_anew_are_noticed(tree):
    before = find_images(tree)
    for name in before.names:
        (tree / name).write_bytes(b"of another size" * 3)
    assert set(find_images(tree).sizes.tolist()) == {45}


@pytest.mark.parametrize("damage", [b"", b"no index", None])
def test_a_damaged_index_is_made_again(tree, listed, cache_folder, damage):
    find_images(tree)
    (path,) = (cache_folder / "index").iterdir()
    if damage is None:
        # One byte flipped in the middle of the names.
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        damage = bytes(content)
    path.write_bytes(damage)
    listed.clear()
    assert len(find_images(tree).names) == 120
    assert len(listed) == 5
    listed.clear()
    find_images(tree)
    assert listed == []


def test_a_cache_that_cannot_be_written_costs_only_time(tree, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOCO_EVAL_CACHE", str(tmp_path / "file"))
    assert len(find_images(tree).names) == len(find_images(tree).names) == 120


def test_few_images_are_not_remembered(tmp_path, cache_folder):
    (tmp_path / "1.jpg").write_bytes(b"")
    find_images(tmp_path)
    assert not (cache_folder / "index").exists()


def test_the_index_lies_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("MOCO_EVAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    index_cache.write("it", {})
    assert len(list((tmp_path / "xdg/moco-eval/index").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    index_cache.write("it", {})
    assert len(list((tmp_path / ".cache/moco-eval/index").iterdir())) == 1


def test_the_fingerprint_is_the_same_from_disk_and_from_the_index(tree):
    first = open_pretraining(f"folder:{tree}")
    assert open_pretraining(f"folder:{tree}").train.fingerprint == first.train.fingerprint
    (tree / "a" / "000.jpg").rename(tree / "a" / "zero.jpg")
    assert open_pretraining(f"folder:{tree}").train.fingerprint != first.train.fingerprint


def test_packed_names_are_a_sequence():
    names = PackedNames.of(["one", "", "zwölf", "b\udcff"])
    assert (len(names), names[0], names[1], names[-1]) == (4, "one", "", "b\udcff")
    assert list(names) == ["one", "", "zwölf", "b\udcff"]
    assert list(names[1:3]) == ["", "zwölf"]
    assert list(names[2:2]) == []
    assert list(PackedNames.from_array(names.as_array())) == list(names)
    with pytest.raises(IndexError):
        names[4]
