"""BatchNorm folded into convolutions computes the same, and is left alone where it must be."""

import pytest
import torch
from torch import nn

from moco_eval.encoders.encoder import tensor_sha256
from moco_eval.encoders.networks import build_network
from moco_eval.encoders.networks.folding import folded
from moco_eval.encoders.networks.pooling import kinds_of, pooled

NORMS = nn.modules.batchnorm._BatchNorm


def with_statistics(network, images):
    """The network with statistics of its own in each BatchNorm."""
    torch.manual_seed(5)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, NORMS):
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.3)
        network.train()(images)
    return network.eval().requires_grad_(False)


def num_norms(network):
    return sum(isinstance(module, NORMS) for module in network.modules())


def test_a_folded_convolution_by_hand():
    convolution, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)
    with torch.no_grad():
        convolution.weight.fill_(3)
        convolution.bias.fill_(1)
        norm.running_mean.fill_(5)
        norm.running_var.fill_(4)
        norm.weight.fill_(6)
        norm.bias.fill_(7)
    twin = folded(nn.Sequential(convolution, norm).eval(), torch.ones(1, 1, 1, 1))
    # (3 x + 1 - 5) / 2 * 6 + 7 = 9 x - 5.
    assert twin[0].weight.item() == 9
    assert twin[0].bias.item() == -5
    assert isinstance(twin[1], nn.Identity)


# Bottlenecks with a downsample, a small stem, more channels, groups; timm's fused BatchNorms with
# squeeze-and-excitation; activations other than ReLU; a transformer with a stem of convolutions.
@pytest.mark.parametrize(
    "arch",
    [
        *("resnet10_small", "resnet50", "resnet18_cifar", "resnet18_w2x", "resnext50_32x4d"),
        *("timm:resnet10t", "timm:regnety_002", "timm:mobilenetv3_small_050"),
        "vit_conv_small_mocov3",
    ],
)
def test_a_folded_network_has_no_batch_norm_and_every_feature_stays(arch):
    size = 224 if arch.startswith("vit") else 32
    network = with_statistics(build_network(arch), torch.randn(4, 3, size, size))
    before = tensor_sha256(network.state_dict())
    images = torch.randn(2, 3, size, size)
    twin = folded(network, images[:1])
    assert num_norms(network) > num_norms(twin) == 0
    for kind in kinds_of(network):
        expected = pooled(network, images, kind)
        difference = (pooled(twin, images, kind) - expected).norm()
        assert difference < 1e-5 * expected.norm()
    assert tensor_sha256(network.state_dict()) == before


def test_a_batch_norm_that_no_convolution_feeds_stays():
    # DenseNet's stand before the convolutions: 62 of its 121 take what was concatenated.
    network = with_statistics(build_network("timm:densenet121"), torch.randn(4, 3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    twin = folded(network, images[:1])
    assert (num_norms(network), num_norms(twin)) == (121, 62)
    assert torch.allclose(network(images), twin(images), atol=1e-4)


class Twice(nn.Module):
    """What one convolution gives goes two ways: normalised and as it is."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.convolution(images)
        return (self.norm(maps) + maps).mean((2, 3))


class Shared(nn.Module):
    """One convolution that runs twice, into two BatchNorms."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.two(self.convolution(self.one(self.convolution(images)))).mean((2, 3))


class Standardised(nn.Module):
    """A convolution that computes its weight anew in each pass."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = Scaled(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.norm(self.convolution(images)).mean((2, 3))


class Scaled(nn.Conv2d):
    def forward(self, images):
        return self._conv_forward(images, self.weight / self.weight.std(), self.bias)


class Counting(nn.Module):
    """A BatchNorm that normalises by the batch, whatever mode it is in."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, images):
        return self.norm(self.convolution(images)).square().mean((2, 3))


@pytest.mark.parametrize("kind", [Twice, Shared, Standardised, Counting])
def test_what_must_not_be_folded_is_left_alone(kind):
    network = with_statistics(kind(), torch.randn(4, 3, 8, 8) + 1)
    images = torch.randn(2, 3, 8, 8)
    twin = folded(network, images[:1])
    assert num_norms(twin) == num_norms(network)
    assert torch.equal(twin(images), network(images))
