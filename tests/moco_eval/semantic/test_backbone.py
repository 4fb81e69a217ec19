"""The map that a head stands on: its dilation, and which pixels its points stand for."""

import pytest
import torch
from torch import nn

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.encoders.networks import build_network
from moco_eval.errors import UsageError
from moco_eval.semantic import backbone
from moco_eval.semantic.backbone import Grid, feature_map

VIT = "timm:vit_tiny_patch16_224:img_size=32,patch_size=8,depth=2,embed_dim=24,num_heads=2"
BEIT = "timm:beit_base_patch16_224:img_size=32,depth=1,embed_dim=24,num_heads=2"


def test_a_dilated_convolution_reads_every_other_point():
    layer = nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    backbone._dilate(layer)
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 1
    reached = layer(point)[0, 0].nonzero().tolist()
    assert reached == [[row, column] for row in (2, 4, 6) for column in (2, 4, 6)]


@pytest.mark.parametrize(
    ("arch", "stride"),
    [
        ("resnet10_small", 8),
        ("resnet18", 16),
        ("resnet50", 16),
        ("resnet50_v1", 16),
        ("resnext50_32x4d", 16),
        ("timm:resnet18", 16),
    ],
)
def test_dilation_halves_the_stride_and_keeps_every_weight(arch, stride):
    network = build_network(arch).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = feature_map(network, in_chans=3, dilate=True)
    assert (found.grid, found.is_dilated) == (Grid(stride, on_pixels=True), True)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    # 4 steps of the stride from pixel 0 are 5 points.
    points = found.compute(torch.randn(1, 3, 4 * stride + 1, 2 * stride + 1))
    assert points.shape == (1, found.channels, 5, 3)
    convolutions = [m for m in network.layer4.modules() if isinstance(m, nn.Conv2d)]
    spread = {(m.kernel_size[0], m.stride[0], m.dilation[0]) for m in convolutions}
    assert spread == {(3, 1, 2), (1, 1, 1)}
    assert {m.dilation for m in network.layer3.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_what_pools_in_its_shortcut_keeps_its_stride():
    found = feature_map(build_network("timm:resnet26d"), in_chans=3, dilate=True)
    assert (found.grid.stride, found.is_dilated) == (32, False)


def test_levels_are_those_that_dilation_leaves_alone(make_encoder):
    encoder = make_encoder("resnet18", InputSpec(size=64))
    images = torch.randn(1, 3, 64, 96)
    expected = encoder.levels(images)
    with torch.no_grad():
        whole = feature_map(encoder.network, in_chans=3, dilate=False).levels(images)
        assert list(whole) == ["res2", "res3", "res4", "res5"]
        assert all(torch.equal(whole[level], expected[level]) for level in whole)
        kept = feature_map(encoder.network, in_chans=3, dilate=True).levels(images)
    assert list(kept) == ["res2", "res3", "res4"]
    assert all(torch.equal(kept[level], expected[level]) for level in kept)


def test_an_image_is_padded_to_its_last_point_or_patch():
    points = Grid(16, on_pixels=True)
    # 32 * 16 + 1 = 513, the papers' crop.
    assert [points.padded(side) for side in (1, 2, 500, 513, 514)] == [1, 17, 513, 513, 529]
    patches = Grid(14, on_pixels=False)
    assert [patches.padded(side) for side in (1, 14, 513)] == [14, 14, 518]
    padded = points.pad(torch.ones(1, 3, 16, 20))
    assert padded.shape == (1, 3, 17, 33)
    assert padded.sum() == 3 * 16 * 20


def test_values_between_points_are_linear():
    row = torch.tensor([0.0, 2.0, 4.0]).expand(1, 1, 3, 3)
    # Points at pixels 0, 2, 4; of a padded image of 5 pixels 4 are there.
    assert Grid(2, on_pixels=True).spread(row, (5, 4))[0, 0, 2].tolist() == [0, 1, 2, 3]
    # Points in the middle between pixels 0 and 1, 2 and 3, 4 and 5.
    spread = Grid(2, on_pixels=False).spread(row, (6, 5))[0, 0, 3]
    assert spread.tolist() == [0, 0.5, 1.5, 2.5, 3.5]


def test_a_resnets_point_stands_for_the_pixel_that_it_is_centred_on():
    network = build_network("resnet10_small").eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.01)
    # The highest pixel of nine alone has a gradient: let pooling be a mean.
    network.maxpool = nn.AvgPool2d(3, stride=2, padding=1)
    found = feature_map(network, in_chans=3, dilate=True)
    images = torch.ones(1, 3, 257, 257, requires_grad=True)
    # Far from the borders: point (15, 18) of 33.
    found.compute(images)[0, 0, 15, 18].backward()
    weight = images.grad[0, 0].double()
    place = torch.arange(257.0, dtype=torch.float64)
    assert ((weight.sum(1) * place).sum() / weight.sum()).item() == pytest.approx(8 * 15)
    assert ((weight.sum(0) * place).sum() / weight.sum()).item() == pytest.approx(8 * 18)


def test_a_transformers_map_is_its_patch_tokens_at_any_size(make_encoder):
    encoder = make_encoder(VIT)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = encoder.network.forward_features(images)
        found = feature_map(encoder.network, in_chans=3, dilate=True)
        points = found.compute(images)
        wide = found.compute(torch.randn(1, 3, 40, 56))
    assert found.grid == Grid(8, on_pixels=False)
    assert not found.is_dilated
    # Row by row after the class token.
    assert points.shape == (2, 24, 4, 4)
    assert torch.allclose(points[:, :, 1, 2], tokens[:, 1 + 4 + 2], atol=1e-6)
    assert wide.shape == (1, 24, 5, 7)


@pytest.mark.parametrize("arch", ["timm:convnext_atto", "timm:regnetx_002"])
def test_other_networks_of_four_stages_keep_their_stride(arch):
    found = feature_map(build_network(arch), in_chans=3, dilate=True)
    assert (found.grid, found.is_dilated) == (Grid(32, on_pixels=False), False)
    assert found.compute(torch.randn(1, 3, 64, 96)).shape == (1, found.channels, 2, 3)


@pytest.mark.parametrize("arch", ["pixels", BEIT])
def test_a_network_without_a_map_is_refused(arch, make_encoder):
    with pytest.raises(UsageError, match="has no levels res2 to res5"):
        feature_map(make_encoder(arch, DIGITS_INPUT).network, in_chans=3, dilate=True)
