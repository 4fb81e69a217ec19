"""What exported files hold: the plain ones, and torchvision's own view of them."""

import json

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from moco_eval.convert import convert
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import CheckpointError, UsageError


@pytest.fixture
def small(scrambled):
    return scrambled("resnet10_small", size=32, mean=(0.3,) * 3, std=(0.35,) * 3, crop_pct=1)


def test_torchvision_loads_its_file_with_nothing_missing_but_the_classifier(tmp_path, scrambled):
    encoder = scrambled("resnet18")
    proof = convert(encoder, tmp_path / "r18.pth", "torchvision")
    assert proof["reloaded_in"] == "torchvision"
    network = torchvision.models.resnet18()
    state = torch.load(tmp_path / "r18.pth", weights_only=True)
    result = network.load_state_dict(state, strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert result.unexpected_keys == []
    assert torch.equal(network.layer4[1].bn2.running_var, encoder.network.layer4[1].bn2.running_var)


def test_mocos_linear_evaluation_takes_a_file_of_torchvisions_names(tmp_path, scrambled):
    # As its main_lincls.py does, before it looks at the keys: a torchvision network, its
    # classifier aside, and names below encoder_q.
    encoder = scrambled("resnet18")
    convert(encoder, tmp_path / "r18.pth.tar", "torchvision")
    bare = torch.load(tmp_path / "r18.pth.tar", weights_only=True)
    checkpoint = {"state_dict": {f"module.encoder_q.{name}": t for name, t in bare.items()}}
    prefix = "module.encoder_q."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}fc")
    }
    network = torchvision.models.get_model("resnet18")
    assert set(network.load_state_dict(state, strict=False).missing_keys) == {
        "fc.weight",
        "fc.bias",
    }
    images = torch.randn(2, 3, 64, 64)
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.equal(network.eval()(images), encoder.features(images))


def test_a_resnet_that_torchvision_cannot_build_is_reloaded_here(tmp_path, small):
    proof = convert(small, tmp_path / "small.pth", "torchvision")
    assert (proof["arch"], proof["reloaded_in"]) == ("resnet10_small", "moco-eval")


def test_a_stride_in_another_place_does_not_pass_for_torchvisions(tmp_path, scrambled):
    # Caffe's ResNet: every tensor fits torchvision's, the features do not.
    encoder = scrambled("resnet50_v1")
    with pytest.raises(UsageError, match="as resnet50: reloaded in torchvision, features is off"):
        convert(encoder, tmp_path / "v1.pth", "torchvision")
    assert not list(tmp_path.iterdir())


def test_a_timm_resnet_that_is_torchvisions_is_exported_as_it(tmp_path, scrambled):
    encoder = scrambled("timm:resnet18")
    assert convert(encoder, tmp_path / "r18.pth", "torchvision")["arch"] == "resnet18"
    reloaded = load_encoder(str(tmp_path / "r18.pth"))
    assert (reloaded.arch, reloaded.input) == ("resnet18", encoder.input)


def test_a_safetensors_file_is_plain_to_other_programs(tmp_path, small):
    path = tmp_path / "small.safetensors"
    convert(small, path, "safetensors")
    assert load_file(path).keys() == small.tensors().keys()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["moco_eval"])["input"]["size"] == 32


def test_a_vit_survives_safetensors_and_keeps_its_own_normalisation(tmp_path, tiny_vit):
    encoder = tiny_vit(mean=(0.5,) * 3)
    convert(encoder, tmp_path / "vit.safetensors", "safetensors")
    reloaded = load_encoder(str(tmp_path / "vit.safetensors"))
    assert reloaded.tensor_sha256() == encoder.tensor_sha256()
    assert reloaded.input == encoder.input
    assert reloaded.input.mean == (0.5, 0.5, 0.5)


def test_a_file_that_was_converted_twice_still_names_its_first_origin(tmp_path, small):
    first, second = tmp_path / "first.pth", tmp_path / "second.safetensors"
    convert(small, first, "torchvision")
    convert(load_encoder(str(first)), second, "safetensors")
    assert load_encoder(str(second)).manifest.pretrain["origin"]["source"] == "source.pth"


def test_a_flipped_weight_in_an_exported_file_is_found(tmp_path, small):
    path = tmp_path / "small.safetensors"
    convert(small, path, "safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["layer4.0.bn2.bias"][3] += 1
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="is damaged: its tensors have the SHA-256"):
        load_encoder(str(path))
