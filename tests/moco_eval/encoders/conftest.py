"""Encoders for the tests of export."""

import pytest
import torch

from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import build_network


@pytest.fixture
def scrambled():
    """``scrambled(arch, **input)``: none of its tensors is what a fresh network has."""

    def make(arch, **fed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            network = build_network(arch)
            for tensor in network.state_dict().values():
                if not tensor.is_floating_point():
                    tensor.fill_(7)
                elif tensor.dim() == 1:
                    tensor.add_(torch.rand_like(tensor) * 0.02)
                else:
                    tensor.mul_(0.9).add_(torch.randn_like(tensor) * 1e-3)
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

    return make


@pytest.fixture
def tiny_vit(scrambled):
    """``tiny_vit(options)``: two blocks of timm's ViT on 64 pixels, as ``timm:NAME:...`` says."""

    def make(options="", *, name="vit_tiny_patch16_224", **fed):
        given = dict(pair.split("=", 1) for pair in options.split(",") if pair)
        numbers = {"depth": "2", "embed_dim": "32", "img_size": "64", "num_heads": "2"} | given
        arch = f"timm:{name}:" + ",".join(f"{key}={numbers[key]}" for key in sorted(numbers))
        return scrambled(arch, **fed)

    return make


@pytest.fixture
def on_meta():
    """``on_meta(arch)``: an encoder with names, shapes and strides, and no memory for weights."""

    def make(arch):
        with torch.device("meta"):
            network = build_network(arch)
        manifest = Manifest(
            source=arch, format="test", tower="", arch=arch, input=InputSpec(), num_loaded=0
        )
        return Encoder(network, manifest)

    return make
