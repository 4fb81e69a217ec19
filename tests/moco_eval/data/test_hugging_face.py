import importlib.util
import sys

import numpy as np
import pytest

from moco_eval.data.catalog import open_images, open_pretraining
from moco_eval.data.decoding import DamagedImageError
from moco_eval.errors import DataError, UsageError

# The library and those it imports warn of their own ways of pickling.
pytestmark = pytest.mark.filterwarnings("ignore")
needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="datasets is not installed"
)


def test_without_the_library_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"not installed.*pip install 'moco-eval\[hf\]'"):
        open_pretraining("hf:uoft-cs/cifar10")


def write_splits(folder, encode, **labels):
    """Data as save_to_disk leaves them; of split ``s``, one image a label, grey as its place."""
    import datasets

    features = datasets.Features(
        note=datasets.Value("string"),
        pixels=datasets.Image(),
        label=datasets.ClassLabel(names=["wasp", "ant"]),
    )
    splits = {
        name: datasets.Dataset.from_dict(
            {
                "note": ["x"] * len(targets),
                "pixels": [{"bytes": encode(n), "path": None} for n in range(len(targets))],
                "label": targets,
            },
            features=features,
        )
        for name, targets in labels.items()
    }
    datasets.DatasetDict(splits).save_to_disk(str(folder))


@needs_datasets
def test_columns_are_found_by_their_types(tmp_path, encode):
    write_splits(tmp_path / "mine", encode, train=[0, 1, 0], test=[1, 0])
    data = open_images(f"hf:{tmp_path}/mine")
    # The order of the classes is the data set's own, not the alphabet's.
    assert (data.id, data.classes) == ("hf-mine", ("wasp", "ant"))
    assert (list(data.train.labels), list(data.test.labels)) == ([0, 1, 0], [1, 0])
    assert np.asarray(data.train.images[2]).flat[0] == 2
    assert data.train.images.name_of(2) == "hf-mine[train]:2"


@needs_datasets
def test_a_class_that_is_only_tested_on_is_refused(tmp_path, encode):
    write_splits(tmp_path, encode, train=[0, 0], test=[0, 1])
    with pytest.raises(DataError, match="1 labels that no training image has: ant"):
        open_images(f"hf:{tmp_path}")


@needs_datasets
def test_splits_that_number_their_classes_otherwise_are_refused(tmp_path, encode):
    import datasets

    write_splits(tmp_path / "one", encode, train=[0, 1], test=[0, 1])
    splits = datasets.load_from_disk(str(tmp_path / "one"))
    other = datasets.ClassLabel(names=["ant", "wasp"])
    splits["test"] = splits["test"].cast_column("label", other)
    splits.save_to_disk(str(tmp_path / "two"))
    with pytest.raises(
        DataError, match=r"\[test\] numbers other classes .*: ant, wasp .* wasp, ant"
    ):
        open_images(f"hf:{tmp_path}/two")


@needs_datasets
def test_secret_test_labels_leave_validation(tmp_path, encode):
    write_splits(tmp_path, encode, train=[0, 1], validation=[1], test=[-1, -1, -1])
    assert list(open_images(f"hf:{tmp_path}").test.labels) == [1]


@needs_datasets
def test_a_damaged_row_is_named(tmp_path, encode):
    def half(value=None):
        return encode(value)[:60]

    write_splits(tmp_path / "mine", half, train=[0])
    images = open_pretraining(f"hf:{tmp_path}/mine").train.images
    with pytest.raises(DamagedImageError, match=r"hf-mine\[train\]:0 .*truncated"):
        images[0]


@needs_datasets
def test_data_without_images_are_refused(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "mine"))
    with pytest.raises(DataError, match=r"no column of type Image. It has: text \(Value\)"):
        open_pretraining(f"hf:{tmp_path}/mine")
