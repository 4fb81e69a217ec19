"""Input that does not go with the weights is warned of, and only that."""

import dataclasses

import pytest
import torch

from moco_eval.data.images import normalize
from moco_eval.encoders.check import sample_images
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.formats.inputs import CAFFE, HALF, IMAGENET, UNIT
from moco_eval.encoders.networks import build_network
from moco_eval.encoders.suspicion import input_warnings

IMAGES = sample_images(64)


def trained_on(spec):
    """An encoder whose BatchNorms have seen images of that kind, and no others."""
    torch.manual_seed(0)
    network = build_network("resnet18").train()
    with torch.no_grad():
        for images in IMAGES[:32].flip(-1).chunk(4) * 25:
            network(normalize(images, spec))
    manifest = Manifest(source="", format="", tower="", arch="resnet18", input=spec, num_loaded=0)
    return Encoder(network, manifest)


def fed(encoder, spec):
    return Encoder(encoder.network, dataclasses.replace(encoder.manifest, input=spec))


@pytest.mark.parametrize("spec", [IMAGENET, UNIT, CAFFE])
def test_only_the_input_of_the_training_goes_with_the_weights(spec):
    encoder = trained_on(spec)
    assert input_warnings(encoder, IMAGES) == []
    names = {"imagenet": IMAGENET, "unit": UNIT, "caffe": CAFFE}
    own = next(name for name, other in names.items() if other is spec)
    for other in names.values():
        if other is not spec:
            (warning,) = input_warnings(fed(encoder, other), IMAGES)
            assert warning.startswith("the input looks wrong for the weights")
            assert warning.endswith(f"that of --input {own}")


def test_a_fresh_encoder_remembers_no_input():
    network = build_network("resnet18")
    manifest = Manifest(source="", format="", tower="", arch="resnet18", input=CAFFE, num_loaded=0)
    assert input_warnings(Encoder(network, manifest), IMAGES) == []


def test_timms_tag_says_how_its_weights_are_fed():
    arch = "timm:vit_tiny_patch16_224.augreg_in21k"
    network = build_network(arch)
    manifest = Manifest(source="", format="", tower="", arch=arch, input=HALF, num_loaded=0)
    assert input_warnings(Encoder(network, manifest), IMAGES) == []
    (warning,) = input_warnings(fed(Encoder(network, manifest), IMAGENET), IMAGES)
    assert "timm feeds weights of the tag 'augreg_in21k' with mean (0.5, 0.5, 0.5)" in warning
