"""What the reader takes, and how it refuses the rest; test_malicious.py has the attacks."""

import argparse
import json
import pickle
import struct
import subprocess
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moco_eval.encoders.reading.reader import read
from moco_eval.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([7.0])}


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_torch_file_is_read_whatever_its_name(tmp_path, zipped):
    path = tmp_path / "weights.safetensors"
    content = {"state_dict": TENSORS, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    root = read(path).root
    assert root["epoch"] == 3
    assert torch.equal(root["state_dict"]["a.weight"], TENSORS["a.weight"])


def test_safetensors_are_read_with_their_metadata_whatever_their_name(tmp_path):
    path = tmp_path / "weights.pth"
    save_file(TENSORS, path, metadata={"format": "pt"})
    file = read(path)
    assert torch.equal(file.root["a.weight"], TENSORS["a.weight"])
    assert file.metadata == {"format": "pt"}


def test_the_hash_is_that_of_the_files_bytes(tmp_path):
    path = tmp_path / "weights.pth"
    save_file(TENSORS, path)
    listed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert read(path).sha256 == listed.stdout.split()[0]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_is_read_with_its_configuration(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    file = read(tmp_path)
    assert json.loads(file.metadata["config.json"]) == {"architecture": "resnet18"}
    assert set(file.root) == set(TENSORS)


def test_a_saved_command_line_is_plain_values_and_is_read(tmp_path):
    path = tmp_path / "dino.pth"
    torch.save({"teacher": TENSORS, "args": argparse.Namespace(arch="vit_small")}, path)
    assert read(path).root["args"].arch == "vit_small"
    # The permission ends with the reading.
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_another_zip_archive_is_refused_with_what_it_holds(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner/model.pth", b"")
    assert "holds no data.pkl but model.pth" in refusal(path)


def test_a_zip_that_declares_more_than_it_is_long_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10_000_000)
    text = refusal(path)
    assert "declares 10000000 bytes in a file of" in text
    assert "is not unpacked" in text


def test_safetensors_with_a_lying_header_are_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b'{"a":{}}')
    assert f"declares a header of {1 << 40} bytes in a file of 16" in refusal(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, kind):
    path = tmp_path / "weights"
    # Larger than the first pages, so that some cuts fall into the tensors.
    content = {f"layer{i}.weight": torch.full((20, 20), float(i)) for i in range(4)}
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in (20, 100, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "it is truncated or damaged" in refusal(path), length


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.pth"
    path.touch()
    assert refusal(path) == f"{path} is empty: 0 bytes. Fetch or write it again."


def test_a_text_file_named_pth_is_refused_with_its_first_line(tmp_path):
    path = tmp_path / "moco.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    text = refusal(path)
    assert "is a text file, not a checkpoint" in text
    assert "it begins 'version https://git-lfs.github.com/spec/v1'" in text


def test_bytes_of_another_kind_are_refused_with_the_first_of_them(tmp_path):
    path = tmp_path / "photo.pth"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(60))
    assert "begins with the bytes ff d8 ff e0" in refusal(path)


def test_a_missing_file_is_refused_and_the_nearest_name_is_offered(tmp_path):
    (tmp_path / "moco_v2_800ep.pth.tar").touch()
    text = refusal(tmp_path / "moco_v2_80ep.pth.tar")
    assert f"There is no file {tmp_path / 'moco_v2_80ep.pth.tar'}." in text
    assert f"Did you mean {tmp_path / 'moco_v2_800ep.pth.tar'}?" in text


def test_a_folder_without_an_encoder_is_refused_with_what_was_expected(tmp_path):
    (tmp_path / "checkpoint.pth.tar").touch()
    text = refusal(tmp_path)
    assert "expected config.json and model.safetensors or pytorch_model.bin or" in text
    assert "found checkpoint.pth.tar" in text


def test_a_file_that_holds_no_mapping_is_refused(tmp_path):
    path = tmp_path / "tensor.pth"
    torch.save(torch.zeros(2), path)
    assert "holds a Tensor, not a mapping of names to tensors" in refusal(path)


def test_a_plain_pickle_of_anything_but_arrays_is_refused_with_what_it_asks_for(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": Fraction(1, 2)}))
    text = refusal(path)
    assert "it is a plain pickle, of which only arrays and plain values are read" in text
    assert "it asks for fractions.Fraction. Where" in text


@pytest.mark.parametrize("value", [np.array([None]), np.array(["x"]), [1], {1: {2: {3: 4}}}])
def test_a_plain_pickle_holds_numbers_under_names_and_nothing_else(tmp_path, value):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": value}))
    assert "expected an array of numbers, text or a number under a name in text" in refusal(path)


def test_a_tensor_in_a_plain_pickle_is_refused_as_what_runs_a_nested_pickle(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"w": torch.zeros(2)}))
    assert "asks for torch.storage._load_from_bytes" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_tensor_that_is_larger_than_its_storage_is_refused_by_name(tmp_path, zipped):
    path = tmp_path / "wide.pth"
    # Ten to the twelve numbers, all of them the same four bytes.
    wide = torch.zeros(1).as_strided((10**6, 10**6), (0, 0))
    torch.save({"state_dict": {"a.weight": wide}}, path, _use_new_zipfile_serialization=zipped)
    text = refusal(path)
    assert "the tensor state_dict.a.weight of shape [1000000, 1000000], 4000000000000 bytes" in text
    assert "in a storage of 4." in text


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_any_flipped_bit_of_the_pickle_reads_or_is_refused_but_never_crashes(tmp_path, kind):
    path = tmp_path / "weights"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    refused = 0
    for place in range(0, min(len(whole), 700), 3):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        try:
            read(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("damage", [(b"'shape': (3,)", b"'shape': (3,{"), (b"NUMPY", b"NUMPX")])
def test_a_damaged_array_in_an_archive_is_refused(tmp_path, damage):
    path = tmp_path / "arrays.npz"
    np.savez(path, a=np.ones(3))
    path.write_bytes(path.read_bytes().replace(*damage))
    assert "it is truncated or damaged" in refusal(path)


def test_a_storage_of_another_length_than_its_record_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "record.pth"
    torch.save({"w": torch.zeros(7)}, path)
    # 255 numbers of four bytes, said of a record of seven.
    path.write_bytes(path.read_bytes().replace(b"K\x07", b"K\xff"))
    assert "its storage 0 is 28 bytes long, not 1020" in refusal(path)
