"""Round trips: what an exported file gives back, here and in the libraries it is written for."""

import json
from dataclasses import replace

import pytest
import torch
import torchvision
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.export import TARGETS, detectron2_yaml, export
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.networks import build_network
from moco_eval.errors import CheckpointError, OutputError, UsageError

ENDINGS = {"safetensors": ".safetensors", "torchvision": ".pth", "detectron2": ".pth"}


def scrambled(arch, **fed):
    """An encoder none of whose tensors is what a fresh network has, BatchNorm's included."""
    torch.manual_seed(11)
    network = build_network(arch)
    for tensor in network.state_dict().values():
        if not tensor.is_floating_point():
            tensor.fill_(7)
        elif tensor.dim() == 1:
            tensor.add_(torch.rand_like(tensor) * 0.02)
        else:
            tensor.mul_(0.9)
    manifest = Manifest(
        source="folder/source.pth",
        format="moco",
        tower="encoder_q",
        arch=arch,
        input=InputSpec(**{"size": 64, **fed}),
        num_loaded=1,
        file_sha256="ab",
        pretrain={"method": "moco", "seed": 3},
    )
    return Encoder(network, manifest)


@pytest.fixture(scope="module")
def small():
    return scrambled("resnet10_small", size=32, mean=(0.3,) * 3, std=(0.35,) * 3, crop_pct=1)


def fresh_timm(name):
    """A fresh timm network, fed with small images to save time."""
    encoder = load_encoder(f"random:timm:{name}")
    return Encoder(
        encoder.network, replace(encoder.manifest, input=InputSpec(size=64, mean=(0.5,) * 3))
    )


def refusal(error, encoder, path, target):
    with pytest.raises(error) as caught:
        export(encoder, path, target)
    return str(caught.value)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_the_encoder_back_with_how_it_is_fed(tmp_path, small, target):
    path = tmp_path / f"encoder{ENDINGS[target]}"
    proof = export(small, path, target)
    # One hash whatever the file, so that records of all three are of one encoder.
    assert proof["tensor_sha256"] == small.tensor_sha256()
    levels = {"features", "res2", "res3", "res4", "res5"}
    assert proof["relative_difference"] == dict.fromkeys(levels, 0.0)
    reloaded = load_encoder(str(path))
    assert reloaded.tensor_sha256() == small.tensor_sha256()
    assert (reloaded.arch, reloaded.input) == ("resnet10_small", DIGITS_INPUT)
    origin = {"source": "source.pth", "format": "moco", "tower": "encoder_q", "file_sha256": "ab"}
    assert reloaded.manifest.pretrain == {"origin": origin, "method": "moco", "seed": 3}


def test_a_file_that_was_converted_twice_still_names_its_first_origin(tmp_path, small):
    first, second = tmp_path / "first.pth", tmp_path / "second.safetensors"
    export(small, first, "detectron2")
    export(load_encoder(str(first)), second, "safetensors")
    assert load_encoder(str(second)).manifest.pretrain["origin"]["source"] == "source.pth"


def test_torchvision_loads_its_file_with_nothing_missing_but_the_classifier(tmp_path):
    encoder = scrambled("resnet18")
    export(encoder, tmp_path / "r18.pth", "torchvision")
    network = torchvision.models.resnet18()
    state = torch.load(tmp_path / "r18.pth", weights_only=True)
    result = network.load_state_dict(state, strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert result.unexpected_keys == []
    assert torch.equal(network.layer4[1].bn2.running_var, encoder.network.layer4[1].bn2.running_var)


def test_a_safetensors_file_is_plain_to_other_programs(tmp_path, small):
    path = tmp_path / "small.safetensors"
    export(small, path, "safetensors")
    assert load_file(path).keys() == small.tensors().keys()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["moco_eval"])["input"]["size"] == 32


def test_a_vit_survives_safetensors_and_keeps_its_own_normalisation(tmp_path):
    encoder = load_encoder("random:timm:vit_tiny_patch16_224")
    export(encoder, tmp_path / "vit.safetensors", "safetensors")
    reloaded = load_encoder(str(tmp_path / "vit.safetensors"))
    assert reloaded.tensor_sha256() == encoder.tensor_sha256()
    assert reloaded.input == encoder.input
    assert reloaded.input.mean == (0.5, 0.5, 0.5)


def test_a_detectron2_file_has_its_names_without_classifier_and_counters(tmp_path, small):
    path = tmp_path / "d2.pth"
    export(small, path, "detectron2")
    content = torch.load(path, weights_only=True)
    assert content["matching_heuristics"] is True
    names = content["model"].keys()
    # 12 convolutions, and 12 BatchNorms of 4 tensors without their counters.
    assert len(names) == 60
    assert {"stem.conv1.norm.bias", "res3.0.shortcut.norm.weight", "res5.0.conv2.weight"} <= names
    assert not [name for name in names if "fc" in name or "num_batches_tracked" in name]


def test_the_yaml_says_what_detectron2_cannot_know():
    fed = {"mean": (0.5, 0.25, 0.125), "std": (0.1, 0.2, 0.3), "channel_order": "BGR"}
    text = detectron2_yaml(scrambled("resnext50_32x4d", **fed), "x50.pth")
    lines = yaml.safe_load(text)
    assert lines["INPUT"] == {"FORMAT": "BGR"}
    # Times 255.
    assert lines["MODEL"]["PIXEL_MEAN"] == [127.5, 63.75, 31.875]
    assert lines["MODEL"]["PIXEL_STD"] == [25.5, 51.0, 76.5]
    # 32 groups of 4 channels; res2 gives 4 x 64.
    assert lines["MODEL"]["RESNETS"] == {
        "DEPTH": 50,
        "STRIDE_IN_1X1": False,
        "NUM_GROUPS": 32,
        "WIDTH_PER_GROUP": 4,
        "RES2_OUT_CHANNELS": 256,
        "STEM_OUT_CHANNELS": 64,
    }


def test_the_yaml_of_a_network_that_detectron2_cannot_build_says_so(tmp_path, small):
    export(small, tmp_path / "small.pth", "detectron2")
    text = (tmp_path / "small.pth.yaml").read_text()
    assert "resnet10_small has a 3x3 stem and stages of (1, 1, 1, 1) blocks" in text
    assert yaml.safe_load(text)["MODEL"] == {"PIXEL_MEAN": [76.5] * 3, "PIXEL_STD": [89.25] * 3}


def test_a_timm_resnet_that_is_torchvisions_is_exported_as_it(tmp_path):
    encoder = fresh_timm("resnet18")
    assert export(encoder, tmp_path / "r18.pth", "torchvision")["arch"] == "resnet18"
    reloaded = load_encoder(str(tmp_path / "r18.pth"))
    assert (reloaded.arch, reloaded.input) == ("resnet18", encoder.input)


@pytest.mark.parametrize("target", ["torchvision", "detectron2"])
def test_a_vit_is_refused_by_name_where_only_resnets_go(tmp_path, target):
    encoder = load_encoder("random:timm:vit_tiny_patch16_224")
    text = refusal(UsageError, encoder, tmp_path / "vit.pth", target)
    assert f"timm:vit_tiny_patch16_224 cannot be written for {target}" in text
    assert "Take --to safetensors" in text
    assert not list(tmp_path.iterdir())


def test_a_network_of_the_same_names_that_computes_something_else_is_refused(tmp_path):
    # Blur pooling has no weights: names and shapes are resnet18's.
    encoder = fresh_timm("resnetblur18")
    text = refusal(UsageError, encoder, tmp_path / "blur.pth", "detectron2")
    assert "reloaded as resnet18, its weights are equal and its outputs differ by" in text
    assert not list(tmp_path.iterdir())


def test_a_flipped_weight_in_an_exported_file_is_found(tmp_path, small):
    path = tmp_path / "small.safetensors"
    export(small, path, "safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["layer4.0.bn2.bias"][3] += 1
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="is damaged: its tensors have the SHA-256"):
        load_encoder(str(path))


def test_what_cannot_be_written_is_said_before_anything_is(tmp_path, small):
    text = refusal(UsageError, small, tmp_path / "x.pth", "torchvison")
    assert "There is no target 'torchvison'. Did you mean 'torchvision'?" in text
    text = refusal(UsageError, small, tmp_path / "x.pkl", "detectron2")
    assert "A file for detectron2 ends in .pth or .pt or .pth.tar, found x.pkl" in text
    text = refusal(UsageError, load_encoder("pixels"), tmp_path / "x.pth", "torchvision")
    assert "pixels has no weights to write" in text
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_an_output_error(tmp_path, small):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "x.safetensors"
    assert f"{path} cannot be written" in refusal(OutputError, small, path, "safetensors")


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_detectron2_computes_the_same_levels_from_its_file_and_yaml(tmp_path, arch):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_resnet_backbone

    encoder = scrambled(arch)
    path = tmp_path / "encoder.pth"
    export(encoder, path, "detectron2")
    config = get_cfg()
    config.merge_from_file(f"{path}.yaml")
    config.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    backbone = build_resnet_backbone(config, ShapeSpec(channels=3)).eval()
    DetectionCheckpointer(backbone).load(str(path))
    # An odd size shows a misplaced stride or padding.
    images = torch.randn(1, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = backbone(images)
    for level, ours in encoder.levels(images).items():
        difference = (theirs[level] - ours).abs().max() / ours.abs().max()
        assert difference < 1e-5, level
