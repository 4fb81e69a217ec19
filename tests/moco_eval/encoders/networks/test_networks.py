"""Networks by name: what each variant computes, and where its projector goes."""

import math

import pytest
import torch
from torch import nn

from moco_eval.encoders.networks import (
    build_network,
    projector_slot,
    resnet_parts,
    with_last_layer,
    without_projector,
)
from moco_eval.encoders.networks.mocov3_vit import position_embedding
from moco_eval.encoders.networks.timm_networks import join_arch, split_arch
from moco_eval.errors import UsageError


def build(arch, **options):
    torch.manual_seed(2)
    return build_network(arch, **options).eval()


def planned(arch):
    """The network on no device: its shapes and nothing else."""
    with torch.device("meta"):
        return build_network(arch)


# ResNets.


@pytest.mark.parametrize(
    ("arch", "expected"), [("resnet50_w2x", 93_907_072), ("resnet50_w4x", 375_378_176)]
)
def test_a_wider_resnet_has_the_papers_number_of_parameters(arch, expected):
    # resnet50: 23,454,912 in convolutions, 9,408 of them in the stem, and 53,120 in BatchNorm.
    # Times k for BatchNorm and the stem (the image stays as it is), times k * k elsewhere:
    # 4 * 23,445,504 + 2 * 62,528 and 16 * 23,445,504 + 4 * 62,528. The paper says 94 M and 375 M.
    assert sum(parameter.numel() for parameter in planned(arch).parameters()) == expected


def test_a_wider_grouped_resnet_keeps_its_groups():
    conv = planned("resnext50_32x4d_w2x").layer1[0].conv2
    # 32 groups of 4 channels become 32 of 8.
    assert (conv.groups, conv.in_channels, conv.out_channels) == (32, 256, 256)


def test_a_cifar_stem_keeps_a_small_image_whole():
    network = build("resnet18_cifar")
    stem, stages = resnet_parts(network)
    hidden = stem(torch.randn(1, 3, 32, 32))
    sides = []
    for stage in stages:
        sides.append(hidden.shape[-1])
        hidden = stage(hidden)
    # The stem and the first stage keep 32 pixels, each later stage halves them.
    assert [*sides, hidden.shape[-1]] == [32, 32, 16, 8, 4]
    assert network.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.1)


def test_blocks_can_begin_as_the_identity():
    block = build("resnet18", zero_init_residual=True).layer1[1]
    images = torch.randn(1, 64, 8, 8)
    assert torch.equal(block(images), images.relu())
    assert not torch.equal(build("resnet18").layer1[1](images), images.relu())
    with torch.device("meta"):
        bottleneck = build_network("resnet50", zero_init_residual=True)
    assert bottleneck.layer1[0].bn3.weight.shape == (256,)


# Transformers.


def test_positions_are_sines_and_cosines_of_row_then_column():
    embedding = position_embedding(2, 8)
    # Two frequencies: 1, and 10,000 to the power of -1/2.
    zero = [0, 0, 1, 1]
    one = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    expected = [[0] * 8, zero + zero, zero + one, one + zero, one + one]
    assert torch.allclose(embedding, torch.tensor([expected], dtype=torch.float32))


def test_a_mocov3_transformer_starts_in_upstreams_bounds_and_freezes_its_patches():
    network = build("vit_digits", num_classes=7)
    state = network.state_dict()
    bounds = {
        # Queries, keys and values are three matrices of 96 x 96.
        "blocks.0.attn.qkv.weight": math.sqrt(6 / (96 + 96)),
        "blocks.3.mlp.fc1.weight": math.sqrt(6 / (96 + 384)),
        # Patches of 4 x 4 pixels of three channels.
        "patch_embed.proj.weight": math.sqrt(6 / (3 * 4 * 4 + 96)),
        "head.weight": math.sqrt(6 / (96 + 7)),
    }
    for name, bound in bounds.items():
        assert 0.97 * bound < state[name].abs().max() <= bound, name
    assert 0 < state["cls_token"].abs().max() < 1e-5
    assert not [n for n, t in state.items() if n.endswith("bias") and t.abs().max() > 0]
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert network.norm.eps == 1e-6


def test_a_transformers_feature_is_its_class_token():
    network = build("vit_digits")
    images = torch.randn(2, 3, 32, 32)
    tokens = network.forward_features(images)
    # 8 x 8 patches and the class token.
    assert tokens.shape == (2, 65, 96)
    assert torch.equal(network(images), tokens[:, 0])


def test_a_convolutional_stem_halves_four_times_and_is_trained():
    network = build("vit_conv_small_mocov3", image_size=32)
    assert len(network.blocks) == 11
    assert network.patch_embed(torch.randn(1, 3, 32, 32)).shape == (1, 4, 384)
    assert [n for n, p in network.named_parameters() if not p.requires_grad] == ["pos_embed"]


# timm's, with options.


@pytest.mark.parametrize(
    ("arch", "name", "options"),
    [
        ("resnet50_w2x", "resnet50_w2x", {}),
        ("timm:convnext_tiny", "timm:convnext_tiny", {}),
        (
            "timm:vit_tiny_patch16_224.augreg_in21k:act_layer=quick_gelu,depth=2,norm_eps=1e-05",
            "timm:vit_tiny_patch16_224.augreg_in21k",
            {"norm_eps": 1e-5, "depth": 2, "act_layer": "quick_gelu"},
        ),
        # Lists hold commas; what only begins like JSON is a string; what would be read as a number
        # is written with quotes.
        (
            'timm:x:a=[1,[2,3]],b=true,c=3x3,d="3",e=-0.5,f=,g=a=b',
            "timm:x",
            {"a": [1, [2, 3]], "b": True, "c": "3x3", "d": "3", "e": -0.5, "f": "", "g": "a=b"},
        ),
    ],
)
def test_an_architecture_comes_apart_and_together_again(arch, name, options):
    assert split_arch(arch) == (name, options)
    assert join_arch(name, options) == arch


@pytest.mark.parametrize("rest", ["", "depth", "depth=1,", "depth=1,depth=2", "3=1", ",a=1"])
def test_options_that_are_not_written_as_such_are_refused(rest):
    with pytest.raises(UsageError, match="should begin an option"):
        split_arch(f"timm:vit_tiny_patch16_224:{rest}")


@pytest.mark.parametrize(
    ("name", "options"),
    [("timm:x", {"a": torch}), ("timm:x", {"a": (1, 2)}), ("timm:x", {"a-b": 1}), ("x", {"a": 1})],
)
def test_options_that_no_string_can_carry_are_refused(name, options):
    with pytest.raises(UsageError, match="cannot carry the option a"):
        join_arch(name, options)


def test_options_build_another_network():
    network = build("timm:vit_tiny_patch16_224:depth=2,embed_dim=64,num_heads=2,norm_eps=0.5")
    assert (len(network.blocks), network.embed_dim) == (2, 64)
    assert network.blocks[1].attn.num_heads == 2
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    # Two in each block, and the last.
    assert [norm.eps for norm in norms] == [0.5] * 5
    sized = "timm:vit_tiny_patch16_224:depth=1,img_size=64"
    assert build(sized).patch_embed.img_size == (64, 64)
    assert build(sized, image_size=96).patch_embed.img_size == (96, 96)


@pytest.mark.parametrize(
    ("arch", "text"),
    [
        ("timm:vit_tiny_patch16_224:depht=2", "timm says: TypeError: .*argument 'depht'"),
        ("timm:regnetx_002:depht=2", "timm says: TypeError: .*argument 'depht'"),
        ("timm:efficientnet_b0:depht=2", "timm says: TypeError: .*argument 'depht'"),
        ("timm:vit_tiny_patch16_224:num_heads=5", "AssertionError: .*divisible by num_heads"),
        ("timm:vit_tiny_patch16_224:act_layer=gulu", "cannot be built. timm says: .*gulu"),
        # These would fetch or read a file, or make no network of it.
        ("timm:resnet18:pretrained=true", "'pretrained' is no option"),
        ("timm:resnet18:checkpoint_path=weights.pth", "'checkpoint_path' is no option"),
        ("timm:resnet18:features_only=true", "'features_only' is no option"),
        # timm would leave it out.
        ("timm:vit_tiny_patch16_224:init_values=null", "'init_values' is no option"),
        ("timm:resnet18:norm_eps=1e-5", "positive number for the network's LayerNorms.*0 of them"),
        ("timm:vit_tiny_patch16_224:norm_eps=-1", "positive number.*found -1"),
        ("timm:vit_tiny_patch15_224:depth=2", "no timm model 'vit_tiny_patch15_224'. Did you mean"),
    ],
)
def test_an_option_that_makes_no_network_is_refused(arch, text):
    with pytest.raises(UsageError, match=text):
        build_network(arch)


# What all have in common.


@pytest.mark.parametrize(
    "arch",
    ["resnet10_small", "resnet18_cifar", "vit_digits", "timm:vit_tiny_patch16_224", "pixels"],
)
def test_a_network_takes_other_channels_and_sizes(arch):
    network = build(arch, in_chans=2, image_size=48)
    assert network(torch.randn(2, 2, 48, 48)).dim() == 2


@pytest.mark.parametrize(
    ("arch", "name", "dim"),
    [
        ("resnet10_small", "fc", 128),
        ("vit_digits", "head", 96),
        ("timm:vit_tiny_patch16_224", "head", 192),
        # Its head pools and normalises before its last layer.
        ("timm:convnext_atto", "head.fc", 320),
        ("timm:mobilenetv3_small_050", "classifier", 1024),
    ],
)
def test_a_projector_goes_where_the_classifier_was_and_leaves_no_trace(arch, name, dim):
    network = build(arch, num_classes=5, image_size=32)
    assert projector_slot(network) == (name, dim)
    images, last = torch.randn(2, 3, 32, 32), network.get_submodule(name)
    features = without_projector(network)(images)
    assert torch.allclose(network(images), last(features), atol=1e-5)

    projected = with_last_layer(network, nn.Sequential(nn.Linear(dim, 3), nn.ReLU()))
    assert projected is network
    assert network(images).shape == (2, 3)
    assert torch.equal(without_projector(network)(images), features)


@pytest.mark.parametrize(
    ("arch", "text"),
    [
        ("timm:deit_tiny_distilled_patch16_224", "has 2 classifiers head head_dist"),
        ("timm:dla46_c", "'fc' is a Conv2d"),
        ("pixels", "'fc' is a Identity"),
    ],
)
def test_a_network_without_one_last_linear_layer_takes_no_projector(arch, text):
    network = build(arch, num_classes=5)
    with pytest.raises(UsageError, match=text):
        projector_slot(network)


@pytest.mark.parametrize("arch", ["resnet18_w1x", "resnet18_cifar_w2x", "vit_digits_cifar"])
def test_a_variant_that_nobody_knows_is_answered_with_those_there_are(arch):
    with pytest.raises(UsageError, match=f"no architecture '{arch}'.*_w2x to _w9x.*then _cifar"):
        build_network(arch)


def test_a_size_that_is_no_whole_number_of_patches_is_refused():
    with pytest.raises(UsageError, match="patches of 4 pixels, and 30 is no multiple"):
        build_network("vit_digits", image_size=30)
