"""A loaded network for other images: what changes, what stays, and what is said of it."""

import pytest
import torch

from moco_eval.encoders.networks import build_network
from moco_eval.encoders.networks.adapt import resized, with_channels
from moco_eval.errors import UsageError

TINY_VIT = "timm:vit_tiny_patch16_224:depth=1,embed_dim=64,img_size=32,num_heads=1,patch_size=8"
TINY_SWIN = (
    "timm:swin_tiny_patch4_window7_224:depths=[2,2],embed_dim=8,img_size=64,num_heads=[1,2],"
    "window_size=8"
)
TINY_ROPE = "timm:vit_small_patch16_dinov3:depth=1,embed_dim=64,num_heads=1"


def build(arch, **options):
    torch.manual_seed(5)
    return build_network(arch, **options).eval()


@pytest.mark.parametrize(
    ("arch", "size", "done"),
    [
        (TINY_VIT, 64, "pos_embed resampled from 4x4 to 8x8"),
        (TINY_VIT, 32, ""),
        ("vit_digits", 48, "pos_embed resampled from 8x8 to 12x12"),
        ("vit_conv_small_mocov3", 32, "pos_embed resampled from 14x14 to 2x2"),
        (TINY_ROPE, 64, "positions computed for 4x4 patches instead of 16x16"),
        (TINY_SWIN, 128, "resized from 16x16 to 32x32 patches"),
        # The first stage keeps its windows of 8, the second is 4 x 4 as a whole.
        (
            TINY_SWIN,
            32,
            "resized from 16x16 to 8x8 patches, its windows resampled from 8x8 to 4x4",
        ),
        ("resnet10_small", 96, ""),
        ("timm:convnext_atto", 96, ""),
        ("pixels", 96, ""),
    ],
)
def test_a_network_takes_images_of_another_size_and_says_what_was_done(arch, size, done):
    network = build(arch)
    assert resized(network, size) == done
    # The same as the architecture built for that size, from the resampled weights.
    again = build(arch, image_size=size)
    again.load_state_dict(network.state_dict(), strict=True)
    images = torch.randn(2, 3, size, size)
    assert torch.equal(network(images), again(images))


def test_positions_are_resampled_where_they_are_and_the_class_token_keeps_its_own():
    network = build(TINY_VIT)
    with torch.no_grad():
        # Columns 0 to 3 of a 4 x 4 grid, and 9 for the class token.
        network.pos_embed.copy_(torch.cat([torch.tensor([9.0]), torch.arange(4.0).repeat(4)])
            [None, :, None].expand(-1, -1, 64))  # fmt: skip
    resized(network, 64)
    channel = network.pos_embed[0, :, 0]
    assert channel[0] == 9
    grid = channel[1:].reshape(8, 8)
    assert torch.allclose(grid, grid[:1].expand(8, 8), atol=1e-5)
    assert torch.all(grid[0].diff() > 0)
    # Halfway between columns 1 and 2.
    assert grid[0, 3:5].mean().item() == pytest.approx(1.5, abs=1e-5)
    assert network.pos_embed.requires_grad


def test_a_smaller_window_keeps_what_its_table_said_of_each_offset():
    network = build(TINY_SWIN)
    attention = network.layers[1].blocks[0].attn
    with torch.no_grad():
        # Offsets of -7 to 7 in rows and columns; here dx columns count for dx, whatever the row.
        table = torch.arange(-7.0, 8).repeat(15)[:, None].expand(-1, 2)
        attention.relative_position_bias_table.copy_(table)
    resized(network, 32)
    # Of the 4 x 4 window -3 to 3 are left, for each of two heads.
    expected = torch.arange(-3.0, 4).repeat(7)[:, None].expand(-1, 2)
    assert torch.allclose(attention.relative_position_bias_table, expected, atol=0.05)


@pytest.mark.parametrize(
    ("arch", "size", "text"),
    [
        (TINY_VIT, 30, "patches of 8 pixels, and 30 is no multiple"),
        ("timm:levit_128s", 256, "takes images of 224 pixels and timm cannot make it take 256"),
    ],
)
def test_a_size_that_a_network_cannot_take_is_refused(arch, size, text):
    with pytest.raises(UsageError, match=text):
        resized(build(arch), size)


ARCHS = [
    ("resnet10_small", "conv1"),
    (TINY_VIT, "patch_embed.proj"),
    ("vit_conv_small_mocov3", "patch_embed.proj.0"),
    ("timm:convnext_atto", "stem.0"),
    ("timm:resnet18d", "conv1.0"),
]


@pytest.mark.parametrize(("arch", "first"), ARCHS)
def test_a_grey_image_gives_what_its_three_equal_channels_gave(arch, first):
    network = build(arch, image_size=32)
    grey = torch.randn(2, 1, 32, 32)
    expected = network(grey.expand(-1, 3, -1, -1))
    assert with_channels(network, 1) == f"{first} summed over 3 channels, for images of 1"
    assert torch.allclose(network(grey), expected, atol=1e-5)
    build(arch, image_size=32, in_chans=1).load_state_dict(network.state_dict(), strict=True)


@pytest.mark.parametrize(("arch", "first"), ARCHS)
def test_more_channels_repeat_the_three_and_weigh_as_much(arch, first):
    network = build(arch, image_size=32)
    weight = network.get_submodule(first).weight.detach().clone()
    said = with_channels(network, 5)
    assert said == f"{first} repeated from 3 channels to 5 and scaled by 3/5"
    wider = network.get_submodule(first).weight
    # Red, green, blue, red, green.
    assert torch.equal(wider, weight[:, [0, 1, 2, 0, 1]] * (3 / 5))
    assert network(torch.randn(2, 5, 32, 32)).dim() == 2


def test_three_channels_stay_and_frozen_weights_stay_frozen():
    network = build("vit_digits")
    before = network.patch_embed.proj.weight
    assert with_channels(network, 3) == ""
    assert network.patch_embed.proj.weight is before
    with_channels(network, 2)
    assert not network.patch_embed.proj.weight.requires_grad


@pytest.mark.parametrize(
    ("network", "channels", "text"),
    [
        (build("pixels"), 1, "it begins with no convolution"),
        (build("resnet10_small", in_chans=2), 1, "it begins with 'conv1' over 2 channels"),
        (build("resnet10_small"), 0, "cannot take images of 0 channels"),
    ],
)
def test_a_network_whose_channels_cannot_be_changed_is_refused(network, channels, text):
    with pytest.raises(UsageError, match=text):
        with_channels(network, channels)
