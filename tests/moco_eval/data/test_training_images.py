import numpy as np
import pytest

from moco_eval.data import file_sizes, index_cache
from moco_eval.data.catalog import (
    IMAGE_KINDS,
    ImageData,
    MultiLabelData,
    open_images,
    open_labelled,
    open_pretraining,
)
from moco_eval.errors import DataError, UsageError


@pytest.fixture
def images(tmp_path, encode):
    """Images of the grey values 10 to 15, named by value, in the folder that is returned."""
    (tmp_path / "images").mkdir()
    for value in range(10, 16):
        (tmp_path / "images" / f"{value}.png").write_bytes(encode(value))
    return tmp_path


def values_of(split):
    return [int(np.asarray(image).flat[0]) for image in split.images]


def lay_out(root, encode, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(10 + number))


def test_any_folder_of_images_can_be_pretrained_on(tmp_path, encode):
    lay_out(tmp_path, encode, "1.png", "deep/er/2.png", "deep/3.png")
    data = open_pretraining(f"folder:{tmp_path}")
    # A folder's own images before those of its sub-folders.
    assert values_of(data.train) == [10, 12, 11]
    assert (data.train.labels, data.classes, data.test) == (None, (), None)
    assert len(data.train) == 3
    assert data.train.images.name_of(2) == str(tmp_path / "deep/er/2.png")
    np.testing.assert_array_equal(data.train.images.lazy(1), data.train.images[1])


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"holds no images .*Found: notes\.txt"):
        open_pretraining(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="no such folder"):
        open_pretraining(f"folder:{tmp_path}/no")


def test_class_folders_need_no_test_part_to_pretrain(tmp_path, encode):
    lay_out(tmp_path, encode, "train/ant/1.png", "train/bee/1.png", "train/bee/deep/2.png")
    data = open_pretraining(f"imagefolder:{tmp_path}")
    assert (data.classes, list(data.train.labels), data.test) == (("ant", "bee"), [0, 1, 1], None)
    # The same classes, named without the folder above them.
    bare = open_pretraining(f"imagefolder:{tmp_path}/train")
    assert (bare.classes, values_of(bare.train)) == (data.classes, [10, 11, 12])
    assert bare.train.fingerprint == data.train.fingerprint
    with pytest.raises(DataError, match="train/CLASS"):
        open_images(f"imagefolder:{tmp_path}")


def test_class_folders_with_a_test_part_are_the_same_for_both(tmp_path, encode):
    lay_out(
        tmp_path, encode, "train/ant/1.png", "train/bee/1.png", "val/ant/1.png", "val/bee/1.png"
    )
    data = open_pretraining(f"imagefolder:{tmp_path}")
    assert isinstance(data, ImageData)
    assert data.fingerprint == open_images(f"imagefolder:{tmp_path}").fingerprint
    # A flat val/, as ImageNet's unpacks, or one of other classes, is no reason not to pretrain.
    lay_out(tmp_path, encode, "val/cow/1.png")
    assert open_pretraining(f"imagefolder:{tmp_path}").test is None


def test_a_folder_without_classes_names_the_kind_that_fits(tmp_path, encode):
    lay_out(tmp_path, encode, "1.png")
    with pytest.raises(DataError, match=f"folder:{tmp_path}"):
        open_pretraining(f"imagefolder:{tmp_path}")


def test_a_list_of_paths_is_unlabelled(images):
    (images / "list.txt").write_text(f"images/12.png\n\n{images}/images/10.png\r\n")
    data = open_pretraining(f"list:{images}/list.txt")
    assert (data.id, values_of(data.train), data.train.labels) == ("list-list", [12, 10], None)


def test_labels_stand_behind_a_tab_or_a_space(images, encode):
    lay_out(images, encode, "images/with space.png")
    lines = "images/12.png\tbee\nimages/10.png ant\nimages/with space.png\tbee\n"
    (images / "list.txt").write_text(lines)
    data = open_pretraining(f"list:{images}/list.txt")
    assert (data.classes, list(data.train.labels)) == (("ant", "bee"), [1, 0, 1])
    assert values_of(data.train) == [12, 10, 10]
    # Without labels a space is part of the name.
    (images / "list.txt").write_text("images/with space.png\nimages/11.png\n")
    assert values_of(open_pretraining(f"list:{images}/list.txt").train) == [10, 11]


def test_two_lists_can_be_evaluated_on(images):
    # As numbers 2 < 10; as words it would be the other way round.
    (images / "train.txt").write_text("images/12.png 10\nimages/13.png 2\n")
    (images / "test.txt").write_text("images/14.png 10\n")
    data = open_images(f"list:{images}/train.txt:{images}/test.txt")
    assert (data.classes, list(data.train.labels), list(data.test.labels)) == (
        ("2", "10"),
        [1, 0],
        [1],
    )
    (images / "test.txt").write_text("images/14.png 3\n")
    with pytest.raises(DataError, match="no training image has: 3"):
        open_images(f"list:{images}/train.txt:{images}/test.txt")


def test_more_than_a_training_and_a_test_part_are_refused():
    for spec in ("list:a:b:c", "wds:a:b:c", "wds:a:"):
        with pytest.raises(UsageError, match="is not written as"):
            open_pretraining(spec)


def test_a_table_holds_paths_labels_and_splits(images):
    rows = ["split,Image,class,note"]
    rows += ["train,images/10.png,bee,1", 'train,"images/11.png",ant,2', "val,images/12.png,bee,3"]
    rows += ["test,images/13.png,bee,4", "test,images/14.png,ant,5"]
    (images / "table.csv").write_text("\n".join(rows))
    data = open_images(f"csv:{images}/table.csv")
    assert (values_of(data.train), values_of(data.test)) == ([10, 11], [13, 14])
    assert (data.classes, list(data.train.labels), list(data.test.labels)) == (
        ("ant", "bee"),
        [1, 0],
        [1, 0],
    )
    # The labels of the test images are unknown: those of val are tested on.
    (images / "table.csv").write_text("\n".join(rows).replace("ant,5", ",5"))
    assert values_of(open_images(f"csv:{images}/table.csv").test) == [12]


def test_a_table_of_paths_alone_is_for_pretraining(images):
    (images / "table.csv").write_text("path\nimages/10.png\nimages/11.png\n")
    data = open_pretraining(f"csv:{images}/table.csv")
    assert (values_of(data.train), data.train.labels, data.test) == ([10, 11], None, None)
    with pytest.raises(
        UsageError, match=r"table\.csv has no labels for all .* split of each in csv:"
    ):
        open_images(f"csv:{images}/table.csv")
    (images / "table.csv").write_text("path,label\nimages/10.png,a\nimages/11.png,NA\n")
    assert open_pretraining(f"csv:{images}/table.csv").classes == ("NA", "a")
    with pytest.raises(UsageError, match=r"table\.csv has no labelled test images"):
        open_images(f"csv:{images}/table.csv")


def test_a_table_of_other_test_classes_is_refused(images):
    rows = "path,label,split\nimages/10.png,ant,train\nimages/11.png,bee,train\n"
    (images / "table.csv").write_text(f"{rows}images/12.png,cow,test\n")
    with pytest.raises(DataError, match=r"csv-table: .* 1 labels that no training image has: cow"):
        open_images(f"csv:{images}/table.csv")


def test_a_column_labels_holds_several_classes_an_image(images):
    rows = ["path,labels,split", "images/10.png,dog|cat,train", "images/11.png,,train"]
    rows += ["images/12.png, cat ,train", "images/13.png,dog | cat,test", "images/14.png,,test"]
    (images / "table.csv").write_text("\n".join(rows))
    data = open_labelled(f"csv:{images}/table.csv")
    assert isinstance(data, MultiLabelData)
    # Of classes cat and dog; no class at all is a label, too.
    assert (data.classes, data.train.labels) == (("cat", "dog"), [[1, 1], [0, 0], [1, 0]])
    assert (data.test.labels, values_of(data.test)) == ([[1, 1], [0, 0]], [13, 14])
    assert open_pretraining(f"csv:{images}/table.csv").train.labels is None
    with pytest.raises(UsageError, match="may show several of its 2 classes"):
        open_images(f"csv:{images}/table.csv")
    (images / "table.csv").write_text("\n".join([*rows, "images/15.png,cat|cow|ewe,test"]))
    with pytest.raises(DataError, match="2 labels that no training image has: cow, ewe"):
        open_labelled(f"csv:{images}/table.csv")
    (images / "table.csv").write_text("\n".join(rows[:4]))
    with pytest.raises(UsageError, match=r"table\.csv has no labels for all"):
        open_labelled(f"csv:{images}/table.csv")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "name,label\nimages/10.png,1\n",
            "has the columns name, label; none of them is called path",
        ),
        ("path,split\nimages/10.png,trian\n", "split 'trian'; known are train"),
        ("path,split\nimages/10.png,test\n", "no row of split 'train'"),
        ("path\nimage/10.png\nimage/11.png\n", r"None of the 2 images .* image/10\.png"),
        ("path\n", "names no images"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(images, text, complaint):
    (images / "table.csv").write_text(text)
    with pytest.raises(DataError, match=complaint.replace("image/10", f"{images}/image/10")):
        open_pretraining(f"csv:{images}/table.csv")


def test_a_missing_list_is_named(tmp_path):
    for kind in ("list", "csv"):
        with pytest.raises(DataError, match=f"{kind}:{tmp_path}/no cannot be read"):
            open_pretraining(f"{kind}:{tmp_path}/no")


def test_sizes_of_listed_files_are_looked_up_once(images, monkeypatch):
    import os

    source = images / "list.txt"
    names = [f"images/{value}.png" for value in range(10, 16)] * 250
    source.write_text("\n".join(names))
    os.utime(source, (1e9, 1e9))
    sizes = file_sizes.of_list(source, images, names)
    assert sizes[0] == (images / names[0]).stat().st_size
    asked = []
    size_of = file_sizes.size_of
    monkeypatch.setattr(file_sizes, "size_of", lambda path: asked.append(path) or size_of(path))
    # 1,500 names are checked by every third.
    assert file_sizes.of_list(source, images, names).tolist() == sizes.tolist()
    assert len(asked) == 500
    (images / names[0]).write_bytes(b"other")
    assert file_sizes.of_list(source, images, names)[0] == 5
    assert index_cache.read(f"sizes {source.resolve()}")["sizes"][0] == 5
    # Of the same list others may be asked for; the second is none of every third.
    (images / "other").write_bytes(b"longer")
    assert file_sizes.of_list(source, images, [names[0], "other", *names[2:]])[1] == 6


def test_unlabelled_kinds_are_refused_for_evaluation_by_name(images):
    with pytest.raises(UsageError, match=r"images has no labels .*imagefolder:DIR"):
        open_images(f"folder:{images}/images")


def test_a_kind_without_a_place_shows_how_it_is_written():
    for form in IMAGE_KINDS[1:]:
        kind = form.partition(":")[0]
        with pytest.raises(UsageError) as caught:
            open_pretraining(f"{kind}:")
        assert form in str(caught.value)
