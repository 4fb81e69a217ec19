"""Files that hold more than tensors: nothing of it is built, and the tensors come out right."""

import argparse
import collections
import datetime
import enum
import pickle
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from moco_eval.encoders.reading.inert import Inert
from moco_eval.encoders.reading.reader import read

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3).t(), "a.bias": torch.tensor([7.0])}


class Precision(enum.Enum):
    HALF = "half"


class FlatMapping:
    """As haiku's: immutable, and a mapping only to those who have haiku."""

    def __init__(self, mapping):
        self._mapping = mapping


class _ByolExperimentState(NamedTuple):
    online_params: object
    target_params: object
    online_state: object
    target_state: object
    opt_state: object


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.inner = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Linear(2, 2))
        self.again = self.conv
        self.register_buffer("kept", torch.tensor([3.0]))
        self.register_buffer("hidden", torch.tensor([9.0]), persistent=False)

    def forward(self, x):
        return self.inner(self.conv(x).mean((2, 3))[..., None, None].flatten(1)[..., None, None])


def require_equal(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


def save(content, path, kind):
    options = {
        "zip": {},
        "legacy": {"_use_new_zipfile_serialization": False},
        "protocol 4": {"pickle_protocol": 4},
        "legacy protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
    }
    torch.save(content, path, **options[kind])


KINDS = pytest.mark.parametrize("kind", ["zip", "legacy", "protocol 4", "legacy protocol 4"])


@KINDS
def test_what_torch_does_not_take_is_read_from_notes(tmp_path, kind):
    path = tmp_path / "dino.pth"
    content = {
        "teacher": TENSORS,
        "optimizer": {"lr": np.float64(0.25), "betas": np.array([0.5, 0.75])},
        "args": argparse.Namespace(arch="vit_small", sizes=[8, np.int64(16)]),
        "saved": datetime.datetime(2021, 1, 2),
        "counts": collections.defaultdict(int, seen=3),
        "precision": Precision.HALF,
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
    }
    save(content, path, kind)
    root = read(path).root
    require_equal(root["teacher"], TENSORS)
    assert root["optimizer"]["lr"] == 0.25
    assert root["optimizer"]["betas"].tolist() == [0.5, 0.75]
    assert root["args"] == argparse.Namespace(arch="vit_small", sizes=[8, 16])
    assert root["saved"].kind == "datetime.datetime"
    assert root["counts"] == {"seen": 3}
    assert root["precision"].kind == f"{__name__}.Precision"
    assert root["size"] == (2, 3)
    assert root["dtype"] is torch.bfloat16


@KINDS
def test_every_type_of_number_and_shared_storages_come_back(tmp_path, kind):
    path = tmp_path / "types.pth"
    names = ["float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    numbers = torch.arange(12).reshape(3, 4)
    content = {name: numbers.to(getattr(torch, name)) for name in names}
    content |= {"row": numbers[1], "column": numbers[:, 2], "empty": torch.zeros(0, 3)}
    save(content | {"odd": Precision.HALF}, path, kind)
    root = dict(read(path).root)
    assert isinstance(root.pop("odd"), Inert)
    require_equal(root, content)
    assert root["row"].untyped_storage().data_ptr() == root["column"].untyped_storage().data_ptr()


def test_omegaconf_stays_inert_beside_the_tensors(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    path = tmp_path / "hydra.pth"
    torch.save({"state_dict": TENSORS, "cfg": omegaconf.OmegaConf.create({"a": [1]})}, path)
    root = read(path).root
    require_equal(root["state_dict"], TENSORS)
    assert root["cfg"].kind == "omegaconf.dictconfig.DictConfig"


@KINDS
def test_a_whole_module_is_its_state_dict(tmp_path, kind):
    path, net = tmp_path / "net.pth", Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(net, path, kind)
        require_equal(read(path).root, net.state_dict())
        # Wrapped, and as a value: as Ultralytics saves.
        save({"model": nn.DataParallel(net).half(), "epoch": 3}, path, kind)
    root = read(path).root
    require_equal(root["model"], {f"module.{k}": v for k, v in net.half().state_dict().items()})
    assert root["epoch"] == 3
    assert "module.hidden" not in root["model"]


def test_modules_that_share_modules_without_end_are_refused_in_time(tmp_path):
    path, net = tmp_path / "net.pth", nn.ReLU()
    for _ in range(40):
        # Each holds the one before it twice: 2**40 names.
        net = nn.Sequential(net, net)
    torch.save(net, path)
    with pytest.raises(ValueError, match="its modules have more than 131072 names"):
        read(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", ["scripted", "traced"])
def test_a_torchscript_archive_is_its_tensors_under_their_attributes_names(tmp_path, made):
    path = tmp_path / "net.pt"
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sequential(nn.BatchNorm2d(2))).eval()
    compiled = (
        torch.jit.script(net)
        if made == "scripted"
        else torch.jit.trace(net, torch.zeros(1, 3, 2, 2))
    )
    compiled.save(path)
    root = read(path).root
    expected = net.state_dict()
    assert root.keys() == expected.keys()
    assert all(torch.equal(root[name], expected[name]) for name in expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_detectron2s_pickle_of_arrays_is_read(tmp_path, protocol):
    path = tmp_path / "model.pkl"
    model = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    content = {"model": model, "__author__": "MoCo", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    root = read(path).root
    require_equal(root["model"], TENSORS)
    assert root["matching_heuristics"] is True


def test_caffe2s_pickle_of_python_2_is_read(tmp_path):
    path = tmp_path / "R-50.pkl"
    # What Python 2 wrote: names and an array's bytes as old strings. 1.0 is 00 00 80 3f.
    path.write_bytes(
        b"\x80\x02}q\x00U\x05blobsq\x01}q\x02U\x07conv1_wq\x03"
        b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07"
        b"\x87q\x08Rq\x09(K\x01K\x02\x85q\x0acnumpy\ndtype\nq\x0bU\x02f4q\x0cK\x00K\x01\x87q\x0dRq\x0e"
        b"(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89"
        b"U\x08\x00\x00\x80?\x00\x00\x00@q\x11tq\x12bss."
    )
    assert read(path).root["blobs"]["conv1_w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("wrap", [dict, FlatMapping])
def test_byols_training_state_is_read_with_its_fields_names(tmp_path, wrap):
    path = tmp_path / "byol.pkl"
    layers = [wrap({"res_net50/~/conv": wrap({"w": np.full((2,), i, "f4")})}) for i in range(4)]
    state = _ByolExperimentState(*layers, opt_state=Precision.HALF)
    path.write_bytes(pickle.dumps({"experiment_state": state, "step": 5, "rng": np.zeros(2, "u4")}))
    root = read(path).root
    assert root["step"] == 5
    for i, name in enumerate(("online_params", "target_params", "online_state", "target_state")):
        found = root["experiment_state"][name]["res_net50/~/conv"]["w"]
        assert found.tolist() == [i, i]
    assert isinstance(root["experiment_state"]["opt_state"], Inert)


def test_an_archive_of_arrays_is_read_and_a_compressed_one_is_not(tmp_path):
    path = tmp_path / "vit.npz"
    arrays = {"block/kernel": np.arange(6, dtype=">f4").reshape(2, 3), "n": np.array(3)}
    np.savez(path, **arrays)
    root = read(path).root
    assert root["block/kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert root["n"].item() == 3
    np.savez_compressed(path, **arrays)
    with pytest.raises(ValueError, match="compress nothing"):
        read(path)


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    from safetensors.torch import save_file

    for kind in ("zip", "legacy", "safetensors"):
        path = tmp_path / kind
        content = {"a": torch.ones(5000)}
        save_file(content, path) if kind == "safetensors" else save(content, path, kind)
        found = read(path).root["a"]
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
        assert torch.equal(found, content["a"])
