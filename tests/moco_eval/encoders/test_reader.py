"""What the reader takes, and that nothing in what it refuses ever runs."""

import argparse
import json
import os
import pickle
import struct
import subprocess
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from moco_eval.encoders.reader import read
from moco_eval.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([7.0])}


class Trap:
    """A pickle of it makes a folder when it is loaded in full."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


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


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_malicious_pickle_does_not_run_whatever_the_environment_says(
    tmp_path, monkeypatch, zipped
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, touched = tmp_path / "evil.pth", tmp_path / "touched"
    torch.save({"state_dict": Trap(touched)}, path, _use_new_zipfile_serialization=zipped)
    text = refusal(path)
    assert not touched.exists()
    assert "is refused: besides tensors it asks for posix.mkdir, and" in text
    assert "nothing in a checkpoint is run here" in text
    # The trap is no dud: the stock pickle springs it.
    torch.load(path, weights_only=False)
    assert touched.exists()


def test_a_plain_pickle_is_not_even_opened(tmp_path):
    path, touched = tmp_path / "model.pkl", tmp_path / "touched"
    path.write_bytes(pickle.dumps(Trap(touched)))
    assert "is a plain pickle, which is not read" in refusal(path)
    assert not touched.exists()


def test_a_whole_module_is_refused_and_its_classes_are_named(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), path)
    assert "torch.nn.modules.linear.Linear" in refusal(path)


def test_a_torchscript_archive_is_refused_as_a_program(tmp_path):
    # Names alone decide: the archive is not opened further.
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("model/data.pkl", "model/constants.pkl", "model/code/net.py"):
            archive.writestr(name, b"")
    assert "is a TorchScript archive, a program with weights" in refusal(path)


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
    assert "expected config.json and model.safetensors or pytorch_model.bin" in text
    assert "found checkpoint.pth.tar" in text


def test_another_pickle_protocol_is_refused_as_such_and_not_as_damage(tmp_path):
    path = tmp_path / "new.pth"
    torch.save(TENSORS, path, pickle_protocol=4)
    # 149 is the FRAME instruction, which protocol 4 brought.
    assert "does what torch's safe loader does not (Unsupported operand 149)" in refusal(path)


def test_a_file_that_holds_no_mapping_is_refused(tmp_path):
    path = tmp_path / "tensor.pth"
    torch.save(torch.zeros(2), path)
    assert "holds a Tensor, not a mapping of names to tensors" in refusal(path)
