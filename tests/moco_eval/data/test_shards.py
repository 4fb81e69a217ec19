import gzip
import io
import json
import os
import tarfile
import time

import numpy as np
import pytest
from torch.utils.data import DataLoader

from moco_eval.data import index_cache, shard_index
from moco_eval.data.catalog import open_images, open_pretraining
from moco_eval.data.decoding import DamagedImageError
from moco_eval.errors import DataError


def write_tar(path, members, **options):
    """A tar file of ``{name: bytes}``, last changed a minute ago."""
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    os.utime(path, (time.time() - 60,) * 2)


@pytest.fixture
def shards(tmp_path, encode):
    """Three shards of two labelled images each, of the grey values 0, 1 to 5."""
    for shard in range(3):
        members = {}
        for sample in (2 * shard, 2 * shard + 1):
            members[f"s{sample}.cls"] = str(sample % 2).encode()
            members[f"s{sample}.png"] = encode(sample)
        write_tar(tmp_path / f"train-{shard:03d}.tar", members)
    return tmp_path


def values_of(split):
    return [int(np.asarray(image).flat[0]) for image in split.images]


def test_images_and_labels_come_from_shards_in_order(shards):
    data = open_pretraining(f"wds:{shards}/train-{{000..002}}.tar")
    assert values_of(data.train) == [0, 1, 2, 3, 4, 5]
    assert (data.classes, list(data.train.labels), data.test) == (("0", "1"), [0, 1] * 3, None)
    assert data.train.images.name_of(3) == f"{shards}/train-001.tar:s3.png"
    by_star = open_pretraining(f"wds:{shards}/train-*.tar")
    assert by_star.train.fingerprint == data.train.fingerprint
    assert values_of(open_pretraining(f"wds:{shards}/train-{{001..002}}.tar").train) == [2, 3, 4, 5]
    with pytest.raises(IndexError):
        data.train.images[6]


def test_two_patterns_can_be_evaluated_on(shards):
    data = open_images(f"wds:{shards}/train-{{000..001}}.tar:{shards}/train-002.tar")
    assert (values_of(data.test), list(data.test.labels)) == ([4, 5], [0, 1])


def test_shards_of_other_test_classes_are_refused(shards, encode):
    write_tar(shards / "test.tar", {"s.cls": b"7", "s.png": encode(6)})
    with pytest.raises(DataError, match=r"wds-.*1 labels that no training image has: 7\."):
        open_images(f"wds:{shards}/train-000.tar:{shards}/test.tar")


def test_only_regular_files_that_are_images_are_taken(tmp_path, encode):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:

        def add(name, data=b"", **facts):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in facts.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))

        add("folder.png", type=tarfile.DIRTYPE)
        add("link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("hard.png", type=tarfile.LNKTYPE, linkname="1.png")
        add("._1.png", b"of a Macintosh")
        add("1.txt", b"text")
        add("1.seg.png", encode(99))
        add("../../escape.png", encode(7))
        # A name too long for the header proper, as it needs a block of its own.
        add(f"{'deep/' * 30}v1.2/x.PNG", encode(8))
        add("1.png", encode(9))
    data = open_pretraining(f"wds:{tmp_path}/a.tar")
    assert values_of(data.train) == [7, 8, 9]
    assert not (tmp_path.parent.parent / "escape.png").exists()


def test_labels_come_from_json_where_there_is_no_cls(tmp_path, encode):
    members = {
        "a.png": encode(1),
        "a.json": json.dumps({"label": "bee", "url": "x"}).encode(),
        "b.json": json.dumps({"label": "wrong"}).encode(),
        "b.cls": b"ant\n",
        "b.png": encode(2),
        "d.cls": b"bee",
        "d.json": json.dumps({"label": "wrong"}).encode(),
        "d.png": encode(3),
    }
    write_tar(tmp_path / "a.tar", members)
    data = open_pretraining(f"wds:{tmp_path}/a.tar")
    assert (data.classes, list(data.train.labels)) == (("ant", "bee"), [1, 0, 1])
    # One image without a label leaves none: nothing is made up.
    write_tar(tmp_path / "b.tar", members | {"c.png": encode(3), "c.json": b"{broken"})
    assert open_pretraining(f"wds:{tmp_path}/b.tar").train.labels is None


def test_a_compressed_shard_is_refused_with_the_reason(shards):
    path = shards / "train-000.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-000\.tar is compressed with gzip: .* unpacking"):
        open_pretraining(f"wds:{path}")


def test_a_damaged_missing_or_empty_shard_is_named(shards):
    with pytest.raises(DataError, match=r"train-003\.tar, but there is no such file"):
        open_pretraining(f"wds:{shards}/train-{{000..003}}.tar")
    with pytest.raises(DataError, match="no such file"):
        open_pretraining(f"wds:{shards}/none-*.tar")
    path = shards / "train-001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"train-001\.tar cannot be read as a tar file"):
        open_pretraining(f"wds:{shards}/train-*.tar")
    write_tar(path, {"1.txt": b"text"})
    with pytest.raises(DataError, match="1 tar files without an image"):
        open_pretraining(f"wds:{path}")


def test_a_damaged_image_names_its_shard_and_member(shards, encode):
    write_tar(shards / "train-001.tar", {"x.png": encode(1)[:50], "y.png": b""})
    images = open_pretraining(f"wds:{shards}/train-*.tar").train.images
    for index, member, kind in ((2, "x.png", "truncated"), (3, "y.png", "empty")):
        with pytest.raises(DamagedImageError) as caught:
            images[index]
        assert caught.value.path == f"{shards}/train-001.tar:{member}"
        assert caught.value.kind == kind
    # A shard that was cut after it was indexed.
    os.truncate(shards / "train-002.tar", 1600)
    with pytest.raises(DamagedImageError, match="the shard is truncated") as caught:
        images[4]
    assert caught.value.kind == "truncated"


@pytest.fixture
def indexed(monkeypatch):
    """The shards that are read, as they are; few images are remembered, too."""
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 1)
    paths = []
    index = shard_index._index

    def noting(path, *rest):
        paths.append(path.name)
        return index(path, *rest)

    monkeypatch.setattr(shard_index, "_index", noting)
    return paths


def test_only_a_shard_that_changed_is_indexed_again(shards, indexed, encode):
    spec = f"wds:{shards}/train-*.tar"
    first = open_pretraining(spec)
    assert len(indexed) == 3
    indexed.clear()
    second = open_pretraining(spec)
    assert indexed == []
    assert values_of(second.train) == values_of(first.train) == [0, 1, 2, 3, 4, 5]
    assert second.train.fingerprint == first.train.fingerprint
    write_tar(shards / "train-001.tar", {f"{n}.png": encode(n) for n in range(50, 60)})
    assert values_of(open_pretraining(spec).train) == [0, 1, *range(50, 60), 4, 5]
    assert indexed == ["train-001.tar"]


class Greys:
    """The mean grey of each image, so that a loader can stack it."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return int(np.asarray(self.images[index]).flat[0])


def test_forked_loader_processes_read_the_same_shard(tmp_path, encode):
    write_tar(tmp_path / "a.tar", {f"{n:03d}.png": encode(n) for n in range(200)})
    images = open_pretraining(f"wds:{tmp_path}/a.tar").train.images
    # Read before the fork, so that whatever is open is shared.
    assert np.asarray(images[0]).max() == 0
    loader = DataLoader(Greys(images), 10, num_workers=2, multiprocessing_context="fork")
    assert [value for batch in loader for value in batch.tolist()] == list(range(200))
