"""Checkpoints that are folders, or files that lie beside each other."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from layouts.bundle import bundle
from safetensors.torch import save_file
from torch import nn

from moco_eval.encoders.reading.reader import read
from moco_eval.errors import CheckpointError

# DCP says that it saves from a single process, which is so.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.fixture
def saved(tmp_path, net):
    path = tmp_path / "dcp"
    content = {"model": net.state_dict(), "epoch": 3, "options": {"lr": [1.0, 2.0]}}
    dcp.save(content, checkpoint_id=path, no_dist=True)
    return path


def rewritten(path, change):
    """Change the metadata of the distributed checkpoint at ``path``."""
    said = pickle.loads((path / ".metadata").read_bytes())
    change(said)
    (path / ".metadata").write_bytes(pickle.dumps(said))


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read(path)
    return str(caught.value)


def test_a_distributed_checkpoint_is_read_as_it_was_nested(saved, net):
    file = read(saved)
    # What are no tensors stays out.
    assert set(file.root) == {"model"}
    expected = net.state_dict()
    assert file.root["model"].keys() == expected.keys()
    assert all(torch.equal(file.root["model"][name], expected[name]) for name in expected)
    both = (saved / ".metadata").read_bytes() + (saved / "__0_0.distcp").read_bytes()
    assert file.sha256 == hashlib.sha256(both).hexdigest()


def test_a_distributed_checkpoint_without_a_planners_paths_is_flat(saved, net):
    rewritten(saved, lambda said: setattr(said, "planner_data", None))
    assert read(saved).root.keys() == {f"model.{name}" for name in net.state_dict()}


def halves(said):
    """Halve ``model.0.weight``: its second half lies in the shard of another name."""
    for index, place in list(said.storage_data.items()):
        if index.fqn in ("first", "second"):
            start = (0 if index.fqn == "first" else 2, 0)
            said.storage_data.pop(index)
            said.storage_data[type(index)("whole", torch.Size(start), None)] = place
    said.state_dict_metadata["whole"] = said.state_dict_metadata.pop("first")
    said.state_dict_metadata.pop("second")
    said.state_dict_metadata["whole"].size = torch.Size((4, 3))
    said.planner_data = None


def test_a_tensor_is_put_together_from_its_parts(tmp_path):
    path = tmp_path / "dcp"
    whole = torch.arange(12.0).reshape(4, 3)
    parts = {"first": whole[:2].clone(), "second": whole[2:].clone()}
    dcp.save(parts, checkpoint_id=path, no_dist=True)
    rewritten(path, halves)
    assert torch.equal(read(path).root["whole"], whole)


def test_parts_that_overlap_leave_a_gap_and_are_refused(tmp_path):
    path = tmp_path / "dcp"
    dcp.save({"first": torch.ones(2, 3), "second": torch.ones(2, 3)}, checkpoint_id=path, no_dist=1)

    def overlap(said):
        halves(said)
        for index in list(said.storage_data):
            place = said.storage_data.pop(index)
            start = torch.Size((min(index.offset[0], 1), 0))
            said.storage_data[type(index)("whole", start, None)] = place

    rewritten(path, overlap)
    # Rows 0-1 and 1-2 of four: the last row's three numbers have no value.
    assert "the shards of whole overlap and leave 3 of its numbers without" in refusal(path)


def test_a_shape_that_the_shards_do_not_fill_is_refused_before_it_is_made(saved):
    def widen(said):
        said.state_dict_metadata["model.1.weight"].size = torch.Size((10**13,))

    rewritten(saved, widen)
    assert "of shape [10000000000000], 10000000000000 numbers; its shards hold 4." in refusal(saved)


def test_a_missing_or_truncated_shard_is_refused_by_its_name(saved):
    shard = saved / "__0_0.distcp"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    assert f"of __0_0.distcp, which is {len(whole) - 100} bytes long" in refusal(saved)
    shard.unlink()
    assert "__0_0.distcp is missing: a part of model." in refusal(saved)


def test_a_transformed_shard_is_refused_by_its_name(saved):
    def transform(said):
        for place in said.storage_data.values():
            place.transform_descriptors = ["zstd"]

    rewritten(saved, transform)
    assert "was saved compressed or otherwise transformed (['zstd'])" in refusal(saved)


def test_shards_that_an_index_names_are_read_together(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "model-2.safetensors")
    places = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    file = read(tmp_path)
    assert {name: len(tensor) for name, tensor in file.root.items()} == {"a": 2, "b": 3}
    assert json.loads(file.metadata["preprocessor_config.json"]) == {"image_mean": [0.5]}
    index.write_text(json.dumps({"weight_map": places | {"c": "model-1.safetensors"}}))
    assert "says that c lies in model-1.safetensors, which lacks it" in refusal(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    assert "which does not lie beside it" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_folder_of_open_clips_is_read(tmp_path, name):
    save_file({"visual.conv1.weight": torch.ones(2)}, tmp_path / name)
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {}}')
    file = read(tmp_path)
    assert file.metadata == {"open_clip_config.json": '{"model_cfg": {}}'}
    assert set(file.root) == {"visual.conv1.weight"}


@pytest.fixture
def variables(tmp_path):
    path = tmp_path / "model.ckpt-7.index"
    arrays = {
        "base_model/conv2d/kernel": np.arange(300, dtype="f4").reshape(3, 100, 1),
        "base_model/conv2d_1/kernel": np.ones((2,), "f4"),
        "global_step": np.array(7),
    }
    bundle(path, arrays)
    return path, arrays


def test_a_tensorflow_checkpoint_is_read_by_its_variables_names(variables):
    path, arrays = variables
    root = read(path).root
    assert root.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(root[name].numpy(), array)


def test_a_tensorflow_checkpoint_without_its_numbers_is_refused(variables):
    path, _ = variables
    data = path.with_name("model.ckpt-7.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-1])
    # 300 + 2 floats, one long and the graph's three letters: 1219 bytes.
    assert "its variables take 1219 bytes, more than its files hold" in refusal(path)
    data.unlink()
    assert "model.ckpt-7.data-00000-of-00001, which is not beside it" in refusal(path)


def test_parts_that_share_bytes_are_refused(saved):
    def share(said):
        places = [p for i, p in said.storage_data.items() if i.fqn.startswith("model.1.running")]
        places[0].offset, places[0].length = places[1].offset, places[1].length

    rewritten(saved, share)
    assert "and holds another up to" in refusal(saved)
