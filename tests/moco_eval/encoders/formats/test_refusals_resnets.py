"""Files of known authors of which no encoder can be made as they are: the text says why."""

import argparse
import re

import numpy as np
import pytest
import torch
from layouts.bundle import bundle
from layouts.codebases import solo
from layouts.detection import c4_model
from layouts.resnets import resnet

from moco_eval.encoders.formats.transforms_resnet import from_simclr_variables
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import CheckpointError, UsageError

ANY = torch.ones(4, 4)


def refusal(tmp_path, content, **hints):
    """What ``load_encoder`` says against a file with such content."""
    path = content
    if isinstance(content, dict):
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path)
    with pytest.raises((CheckpointError, UsageError)) as refused:
        load_encoder(str(path), **hints)
    return str(refused.value).replace(str(tmp_path), "FOLDER")


def test_selective_kernels_are_refused_by_name(tmp_path):
    names = ("net.0.0.0.weight", "net.1.blocks.0.net.2.mixing_conv.weight", "fc.weight")
    text = refusal(tmp_path, {"resnet": dict.fromkeys(names, ANY), "head": {"w": ANY}})
    assert text.startswith("FOLDER/checkpoint.pth is of format 'simclr-separius-sk', Google's")
    assert "selective kernels (sk1) are built by neither torchvision, timm nor" in text
    assert text.endswith("Take the file of the same network with sk0.")


def test_selective_kernels_in_tensorflows_own_file_are_refused_by_name(tmp_path):
    path = tmp_path / "model.ckpt-9.index"
    variables = {}
    # Their stem is three convolutions of side 3.
    for end in ("", "_1", "_2"):
        variables[f"base_model/conv2d{end}/kernel"] = np.ones((3, 3, 2, 2), "f4")
        variables[f"base_model/batch_normalization{end}/moving_mean"] = np.ones(2, "f4")
    bundle(path, variables)
    text = refusal(tmp_path, path)
    assert text.startswith("FOLDER/model.ckpt-9.index cannot be read as 'simclr-tensorflow': its ")
    assert "stem has three convolutions, as networks with selective kernels (sk1) have" in text


def test_cmcs_networks_of_single_channels_are_refused_by_name(tmp_path):
    model = {"module.encoder1.conv1.weight": ANY, "module.encoder2.conv1.weight": ANY}
    text = refusal(tmp_path, {"model": model, "contrast": {"memory_1": ANY}, "epoch": 9})
    assert (
        "is of format 'pycontrast-cmc', PyContrast's CMC: its two networks see an image's" in text
    )
    assert "neither sees RGB" in text


def test_deepclusters_alexnet_is_refused_by_name(tmp_path):
    names = ("features.module.0.weight", "classifier.1.weight", "top_layer.weight")
    state = dict.fromkeys((*names, "sobel.0.weight"), ANY)
    text = refusal(tmp_path, {"epoch": 9, "arch": "alexnet", "state_dict": state})
    assert "is of format 'deepcluster-v1', DeepCluster's AlexNet or VGG-16: AlexNet and" in text
    assert text.endswith("DeepCluster-v2 has a ResNet-50: format 'deepcluster-v2'.")


def test_solo_learns_small_images_must_be_said_how_to_be_normalised(tmp_path):
    path = solo(tmp_path, {"backbone": resnet("resnet18_cifar_pad2")[1]})
    text = refusal(tmp_path, path)
    assert "does not say how its images are normalised, and format 'solo-learn' has no" in text
    assert "rule for it. Say how: --input imagenet, --input half or --input mean=R/G/B" in text


def test_a_detector_of_detectron2_must_be_said_where_its_stride_is(tmp_path):
    # One of MSRA's and one of torchvision's have the same names and shapes.
    text = refusal(tmp_path, c4_model(resnet("resnet50_v1")[1]), input="caffe")
    assert "is of format 'detectron2-model', and its names and shapes are those of resnet50" in text
    assert "as well as of resnet50_v1 and " in text
    assert text.endswith("Say it: --arch NAME.")


def test_a_detector_of_detectron2_must_be_said_how_it_is_fed(tmp_path):
    text = refusal(tmp_path, c4_model(resnet("resnet50_v1")[1]), arch="resnet50_v1")
    assert "does not say how its images are normalised, and format 'detectron2-model'" in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conv2d_1/kernel": None}, "its layers conv2d are not numbered without a gap."),
        ({"batch_normalization_4/gamma": None}, "it has 5 convolutions and 4 norms."),
        (
            {"conv2d_4/kernel": None, "batch_normalization_4/gamma": None},
            "its 4 convolutions are no stem and blocks of three.",
        ),
        ({"dense/kernel": ANY}, "its variable dense/kernel is no convolution's and no norm's."),
        ({"conv2d/kernel": ANY}, r"a kernel is [4, 4], expected 4 dimensions."),
        ({"conv2d/bias": ANY}, "a convolution has something else than a kernel."),
    ],
)
def test_variables_that_are_no_simclrs_are_refused_with_the_reason(changes, reason):
    # A stem and a block with a shortcut: kernels of sides 7, 1, 1, 3, 1.
    held = {}
    for number, side in enumerate((7, 1, 1, 3, 1)):
        end = f"_{number}" if number else ""
        held[f"conv2d{end}/kernel"] = torch.ones(side, side, 2, 2)
        held[f"batch_normalization{end}/gamma"] = torch.ones(2)
    names = list(from_simclr_variables(held))
    assert names[:3] == ["conv1.weight", "layer1.0.downsample.0.weight", "layer1.0.conv1.weight"]
    held = {name: value for name, value in (held | changes).items() if value is not None}
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        from_simclr_variables(held)


def test_pixpros_namespace_says_the_architecture(tmp_path):
    state = {f"encoder.{name}": tensor for name, tensor in resnet("resnet18")[1].items()}
    state |= {"encoder_k.conv1.weight": ANY, "projector.linear1.weight": ANY}
    content = {"opt": argparse.Namespace(arch="resnet34"), "model": state}
    # Its 36 convolutions have a norm each, of 5 tensors; resnet18 lacks the third block and more.
    assert "missing (216 expected): layer1.2.conv1.weight" in refusal(tmp_path, content)
