"""ResNets for Detectron2: names, configuration, refusals, and its own view of them."""

import pickle

import pytest
import torch
import yaml

from moco_eval.convert import convert
from moco_eval.encoders.exports import detectron2
from moco_eval.encoders.exports.detectron2 import reload_without_detectron2, yaml_of
from moco_eval.encoders.load import load_encoder
from moco_eval.engines import has_detectron2
from moco_eval.errors import UsageError

LIBRARY = "detectron2" if has_detectron2() else "moco-eval"


@pytest.mark.parametrize("name", ["d2.pth", "d2.pkl"])
def test_the_file_has_its_names_without_classifier_and_counters(tmp_path, scrambled, name):
    encoder = scrambled("resnet18")
    path = tmp_path / name
    proof = convert(encoder, path, "detectron2")
    assert proof["reloaded_in"] == LIBRARY
    assert proof["relative_difference"].keys() == {"features", "res2", "res3", "res4", "res5"}
    if name == "d2.pkl":
        content = pickle.loads(path.read_bytes(), encoding="latin1")
        assert {type(value).__name__ for value in content["model"].values()} == {"ndarray"}
    else:
        content = torch.load(path, weights_only=True)
    assert content["matching_heuristics"] is True
    assert content["__author__"] == "moco-eval"
    names = content["model"].keys()
    # 20 convolutions, and 20 BatchNorms of 4 tensors without their counters.
    assert len(names) == 100
    assert {"stem.conv1.norm.bias", "res3.0.shortcut.norm.weight", "res5.1.conv2.weight"} <= names
    assert not [name for name in names if "fc" in name or "num_batches_tracked" in name]


def test_the_way_back_gives_torchvision_the_same_tensors(tmp_path, scrambled):
    encoder = scrambled("resnet18", size=96, mean=(0.1, 0.2, 0.3), channel_order="BGR")
    convert(encoder, tmp_path / "d2.pkl", "detectron2")
    back = load_encoder(str(tmp_path / "d2.pkl"))
    assert (back.arch, back.input) == ("resnet18", encoder.input)
    proof = convert(back, tmp_path / "tv.pth", "torchvision")
    assert proof["tensor_sha256"] == encoder.tensor_sha256()
    assert proof["reloaded_in"] == "torchvision"


def test_another_programs_file_for_detectron2_comes_back_too(tmp_path, scrambled):
    encoder = scrambled("resnet18")
    convert(encoder, tmp_path / "d2.pth", "detectron2")
    content = torch.load(tmp_path / "d2.pth", weights_only=True)
    # As converters write it that know of no record.
    torch.save({"model": content["model"], "__author__": "MOCO"}, tmp_path / "bare.pth")
    back = load_encoder(str(tmp_path / "bare.pth"))
    assert back.arch == "resnet18"
    proof = convert(back, tmp_path / "tv.pth", "torchvision")
    assert proof["tensor_sha256"] == encoder.tensor_sha256()


def test_the_yaml_says_what_detectron2_cannot_know(scrambled):
    fed = {"mean": (0.5, 0.25, 0.125), "std": (0.1, 0.2, 0.3), "channel_order": "BGR"}
    lines = yaml.safe_load(yaml_of(scrambled("resnext50_32x4d", **fed), "x50.pth"))
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


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        # Depth, stride in 1x1, groups, width of one, channels after res2 and after the stem.
        ("resnet34", [34, False, 1, 64, 64, 64]),
        ("resnet50_v1", [50, True, 1, 64, 256, 64]),
        ("resnet50_w2x", [50, False, 1, 128, 512, 128]),
        ("wide_resnet50_2", [50, False, 1, 128, 256, 64]),
        ("resnext101_32x8d", [101, False, 32, 8, 256, 64]),
    ],
)
def test_depth_and_widths_are_read_from_the_network(on_meta, arch, expected):
    assert list(detectron2.resnet_lines(on_meta(arch)).values()) == expected


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("resnet10_small", "a 3x3 stem, where Detectron2's is 7x7"),
        ("resnet18_cifar", "a 3x3 stem"),
        ("resnet18_w2x", "128 channels in res2 and 1 groups, where Detectron2's depths 18 and 34"),
        ("timm:resnet26d", "a deep stem of three convolutions, as in ResNet-C and ResNet-D"),
        ("timm:resnet50_gn", "norms without running statistics, as GroupNorm is"),
        ("timm:seresnet50", "squeeze-and-excitation"),
        ("timm:resnet200", r"stages of \(3, 24, 36, 3\) bottleneck blocks, where Detectron2 has"),
        ("timm:resnet26", r"stages of \(2, 2, 2, 2\) bottleneck blocks"),
        ("timm:convnext_atto", "neither the stages of a ResNet nor the blocks of a ViT"),
    ],
)
def test_what_detectron2_cannot_build_is_refused_by_name(tmp_path, on_meta, arch, reason):
    refused = rf"{arch} cannot be written for detectron2: it has {reason}"
    with pytest.raises(UsageError, match=refused):
        convert(on_meta(arch), tmp_path / "x.pth", "detectron2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arch", ["timm:resnetblur18", "timm:resnetaa50"])
def test_a_network_of_the_same_names_that_computes_something_else_is_refused(
    tmp_path, scrambled, arch
):
    # Pooling against aliases has no weights: names and shapes are a plain ResNet's.
    with pytest.raises(UsageError, match=f"reloaded in {LIBRARY}, features is off by"):
        convert(scrambled(arch), tmp_path / "blur.pth", "detectron2")
    assert not list(tmp_path.iterdir())


def test_without_detectron2_the_file_is_reloaded_here(tmp_path, scrambled):
    encoder = scrambled("resnet18")
    convert(encoder, tmp_path / "d2.pth", "detectron2")
    found = reload_without_detectron2(tmp_path / "d2.pth")
    assert found.library == "moco-eval"
    assert torch.equal(found.tensors["res2.0.conv1.norm.bias"], encoder.network.layer1[0].bn1.bias)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(found.outputs(images)["res5"], encoder.levels(images)["res5"])


@pytest.mark.detectron2
@pytest.mark.parametrize("arch", ["resnet18", "resnet50_v1"])
def test_a_detectors_backbone_has_the_same_levels_from_file_and_yaml(tmp_path, scrambled, arch):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    encoder = scrambled(arch)
    path = tmp_path / "encoder.pth"
    convert(encoder, path, "detectron2")
    config = get_cfg()
    config.merge_from_file(f"{path}.yaml")
    config.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Below backbone., as in a detector, where heuristics must find the names.
    detector = torch.nn.ModuleDict({"backbone": build_backbone(config)}).eval()
    DetectionCheckpointer(detector).load(str(path))
    # An odd size shows a misplaced stride or padding.
    images = torch.randn(1, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = detector["backbone"](images)
    for level, ours in encoder.levels(images).items():
        difference = (theirs[level] - ours).abs().max() / ours.abs().max()
        assert difference < 1e-5, level
