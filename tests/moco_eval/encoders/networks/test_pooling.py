"""Which feature of an image a network gives, and the maps of a hierarchical one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from moco_eval import features, knn, linear, lowshot
from moco_eval.data.catalog import Split, open_images
from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import build_network
from moco_eval.encoders.networks.pooling import kinds_of, pooled, pooled_kinds
from moco_eval.errors import UsageError

# Width 64, two blocks, 4 x 4 patches.
TINY = "depth=2,embed_dim=64,img_size=32,num_heads=1,patch_size=8"
VIT = f"timm:vit_tiny_patch16_224:{TINY}"
# A class token, four registers, then the patches.
REGISTERS = f"timm:vit_small_patch14_reg4_dinov2:{TINY}"
ROPE = "timm:vit_small_patch16_dinov3:depth=2,embed_dim=64,global_pool=token,num_heads=1"
SWIN = "timm:swin_tiny_patch4_window7_224:depths=[1,1,1,1],embed_dim=8,num_heads=[1,1,1,1]"
CONVNEXT = "timm:convnext_atto:depths=[1,1,1,1],dims=[8,16,24,32]"


def build(arch, **options):
    torch.manual_seed(7)
    network = build_network(arch, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return network


def encoder_of(network, arch="test", size=32):
    spec = InputSpec(size=size, crop_pct=1.0)
    return Encoder(
        network,
        Manifest(source="test", format="test", tower="", arch=arch, input=spec, num_loaded=0),
    )


def blocks_of(network, images):
    """What each block gives, by running it alone."""
    outputs = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
        for block in network.blocks
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize(("arch", "first_patch"), [(VIT, 1), (REGISTERS, 5), ("vit_digits", 1)])
def test_a_transformers_features_are_its_tokens_in_other_choices(arch, first_patch):
    network, images = build(arch), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        tokens = network.forward_features(images)
        cls, mean = tokens[:, 0], tokens[:, first_patch:].mean(1)
        assert torch.equal(pooled(network, images, "cls"), cls)
        assert torch.equal(pooled(network, images, "mean"), mean)
        assert torch.equal(pooled(network, images, "cls+mean"), torch.cat([cls, mean], 1))
        # These pool by their class token.
        assert torch.equal(pooled(network, images, "pooled"), network(images))
        assert torch.equal(network(images), cls)


@pytest.mark.parametrize("arch", [VIT, REGISTERS, ROPE])
def test_the_last_class_tokens_are_normalised_and_come_in_order(arch):
    network, images = build(arch), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        one, two = (network.norm(tokens)[:, 0] for tokens in blocks_of(network, images))
        assert not torch.allclose(one, two, atol=1e-3)
        assert torch.allclose(pooled(network, images, "last1"), two, atol=1e-6)
        assert torch.allclose(pooled(network, images, "last2"), torch.cat([one, two], 1), atol=1e-6)


def test_a_norm_that_comes_after_pooling_is_part_of_every_feature():
    network, images = build(f"{VIT},global_pool=avg"), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        tokens = network.forward_features(images)
        assert torch.equal(pooled(network, images, "mean"), network(images))
        assert torch.equal(pooled(network, images, "cls"), network.fc_norm(tokens[:, 0]))
        last = network.fc_norm(blocks_of(network, images)[1][:, 0])
        assert torch.allclose(pooled(network, images, "last1"), last, atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "dim"), [("resnet10_small", 128), (CONVNEXT, 32), (SWIN, 64), ("timm:resnet10t", 512)]
)
def test_the_mean_of_other_networks_is_that_of_their_last_map(arch, dim):
    # Swin's windows take no other size than its own.
    size = 224 if arch == SWIN else 64
    network, images = build(arch), torch.randn(1, 3, size, size)
    with torch.inference_mode():
        mean = pooled(network, images, "mean")
        assert mean.shape == (1, dim)
        if arch == CONVNEXT:
            # It normalises what it pooled.
            mean = network.head.norm(mean[:, :, None, None]).flatten(1)
        assert torch.allclose(network(images), mean, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "kind", "text"),
    [
        ("resnet10_small", "cls", r"A ScaledResNet has no feature 'cls'\. It has: pooled, mean\."),
        ("pixels", "mean", r"A _Pixels has no feature 'mean'\. It has: pooled\."),
        (f"{VIT},class_token=false,global_pool=avg", "cls+mean", r"It has: pooled, mean\."),
        (VIT, "last3", r"cls\+mean, last2, and last1 onwards\."),
        (VIT, "last0", r"There is no feature 'last0'\. Known: pooled, cls, mean, cls\+mean"),
        (VIT, "mean+cls", "There is no feature"),
    ],
)
def test_a_feature_that_a_network_lacks_is_refused_with_those_it_has(arch, kind, text):
    with pytest.raises(UsageError, match=text):
        pooled(build(arch), torch.randn(1, 3, 32, 32), kind)


@pytest.mark.parametrize(
    "arch",
    [
        *(VIT, REGISTERS, ROPE, f"{VIT},global_pool=avg", "vit_digits"),
        *("resnet10_small", CONVNEXT, SWIN, "timm:resnet10t"),
    ],
)
def test_one_pass_gives_every_feature_as_a_pass_of_its_own_does(arch):
    size = 224 if arch == SWIN else 32
    network, images = build(arch), torch.randn(2, 3, size, size)
    kinds = [*kinds_of(network), "last1"] if "vit" in arch else list(kinds_of(network))
    passes = []
    network.register_forward_hook(lambda *_: passes.append("whole"))
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda *_: passes.append("first layer"))
    with torch.inference_mode():
        found = pooled_kinds(network, images, kinds)
        assert passes == ["first layer"]
        assert list(found) == kinds
        for kind, feature in found.items():
            assert torch.allclose(feature, pooled(network, images, kind), atol=1e-6), kind


def test_a_network_tells_its_features():
    assert kinds_of(build("vit_digits")) == ("pooled", "cls", "mean", "cls+mean", "last4")


# In the protocols.


@pytest.fixture(scope="module")
def digits():
    data = open_images("digits")
    train = Split(data.train.images[:120], data.train.labels[:120], "120")
    return replace(
        data, train=train, test=Split(data.test.images[:40], data.test.labels[:40], "40")
    )


@pytest.mark.parametrize(
    ("module", "recipe"),
    [
        (linear, replace(linear.RECIPES["lbfgs"], num_c=1, log10_c_min=-1)),
        (knn, replace(knn.RECIPES["knn-20"], other_k=())),
        (lowshot, replace(lowshot.RECIPES["1-shot"], num_draws=1)),
    ],
)
def test_a_recipe_says_which_feature_and_the_record_repeats_it(digits, module, recipe):
    encoder = encoder_of(build(VIT))
    found = {}
    for feature in ("pooled", "cls+mean"):
        outcome = module.evaluate(
            encoder, replace(recipe, feature=feature), digits, seed=0, work_dir=Path()
        )
        found[outcome.details["feature"]] = outcome.details["feature_dim"]
    assert found == {"pooled": 64, "cls+mean": 128}
    with pytest.raises(UsageError, match="no feature 'token'"):
        replace(recipe, feature="token")


def test_features_of_one_kind_are_not_taken_for_another(digits):
    encoder = encoder_of(build(VIT))
    of = {kind: features.of_split(encoder, digits.test, feature=kind) for kind in ("cls", "mean")}
    assert not torch.allclose(of["cls"], of["mean"], atol=1e-3)
    # Nor those of a network with the same weights that computes something else.
    other = build_network(VIT).eval()
    other.load_state_dict(encoder.network.state_dict())
    other.blocks[0].mlp.act = nn.Tanh()
    twin = encoder_of(other, arch="another")
    assert twin.tensor_sha256() == encoder.tensor_sha256()
    assert not torch.allclose(features.of_split(twin, digits.test, feature="cls"), of["cls"])


# Levels.


@pytest.mark.parametrize(
    ("arch", "channels"),
    [
        (CONVNEXT, [8, 16, 24, 32]),
        (SWIN, [8, 16, 32, 64]),
        ("timm:regnetx_002", [24, 56, 152, 368]),
        ("timm:resnet10t", [64, 128, 256, 512]),
        ("resnet18", [64, 128, 256, 512]),
    ],
)
def test_levels_have_strides_4_to_32_with_channels_second(arch, channels):
    size = 224 if arch == SWIN else 64
    network, images = build(arch), torch.randn(1, 3, size, size)
    levels = encoder_of(network).levels(images)
    assert list(levels) == ["res2", "res3", "res4", "res5"]
    expected = [(1, c, size // s, size // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(level.shape) for level in levels.values()] == expected
    if arch.startswith("timm:re") or arch == "resnet18":
        with torch.inference_mode():
            last = levels["res5"]
            assert torch.allclose(last.mean((2, 3)), network(images), atol=1e-5)


def test_a_swins_level_is_the_map_that_its_stage_gives():
    network, images = build(SWIN), torch.randn(1, 3, 224, 224)
    kept = []
    network.layers[1].register_forward_hook(lambda _, __, output: kept.append(output))
    level = encoder_of(network).levels(images)["res3"]
    assert torch.equal(level.permute(0, 2, 3, 1), kept[0])


def test_a_transformer_without_levels_is_refused_by_name():
    with pytest.raises(UsageError, match="A VisionTransformer has no levels res2 to res5"):
        encoder_of(build(VIT)).levels(torch.randn(1, 3, 32, 32))
