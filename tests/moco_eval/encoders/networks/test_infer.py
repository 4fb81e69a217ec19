"""Names and shapes tell an architecture: real ones by their names, others by few options."""

import pytest
import torch
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from moco_eval.encoders.networks import build_network
from moco_eval.encoders.networks.infer import TWINS, infer_arch, twins_of
from moco_eval.errors import UsageError

TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
TINY = "depth=2,embed_dim=64"


def planned(arch, **options):
    """The tensors' names and shapes, on no device."""
    with torch.device("meta"):
        return build_network(arch, **options).state_dict()


def filled(network):
    """Every weight away from its initial value, so that leaving one out would show."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + 0.1)
    return network.eval()


@pytest.mark.parametrize(
    "arch",
    [
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "resnet10_small"),
        *("wide_resnet50_2", "resnet18_cifar", "resnext50_32x4d_w2x", "vit_conv_small_mocov3"),
        *("timm:resnet26", "timm:resnet50d"),
        *(f"timm:vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
        *("timm:vit_huge_patch14_224", "timm:vit_base_patch16_384", "timm:vit_small_patch32_224"),
        *(f"timm:vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")),
        *(f"timm:vit_{size}_patch14_reg4_dinov2" for size in ("small", "giant")),
        *("timm:vit_small_patch16_dinov3", "timm:vit_small_plus_patch16_dinov3_qkvb"),
        *(f"timm:vit_{size}_patch16_dinov3_qkvb" for size in ("small", "base", "large")),
        *("timm:vit_base_patch16_clip_224", "timm:vit_large_patch14_clip_336"),
        *("timm:vit_base_patch16_siglip_224", "timm:deit_small_distilled_patch16_224"),
        *(f"timm:convnext_{size}" for size in ("atto", "tiny", "small", "base", "large")),
        *("timm:convnextv2_tiny", "timm:deit3_small_patch16_224"),
        *(f"timm:swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")),
        *("timm:swin_base_patch4_window12_384", "timm:regnetx_016", "timm:regnety_016"),
    ],
)
def test_a_network_that_has_a_name_is_called_by_it(arch):
    assert infer_arch(planned(arch)) == (arch, 1)


@pytest.mark.parametrize(
    ("network", "arch"),
    [
        (
            VisionTransformer(**TINY_VIT, num_classes=0),
            f"timm:vit_tiny_patch16_224:{TINY},img_size=32,num_heads=1,patch_size=8",
        ),
        # As I-JEPA: patches alone, normalised before they are averaged.
        (
            VisionTransformer(
                **TINY_VIT, num_classes=0, class_token=False, global_pool="avg", fc_norm=False
            ),
            f"timm:vit_tiny_patch16_224:class_token=false,{TINY},fc_norm=false,global_pool=avg,"
            "img_size=32,num_heads=1,patch_size=8",
        ),
        # As a fine-tuned MAE: normalised after they are averaged, the class token left out.
        (
            VisionTransformer(**TINY_VIT, num_classes=0, global_pool="avg", qkv_bias=False),
            f"timm:vit_tiny_patch16_224:{TINY},global_pool=avg,img_size=32,num_heads=1,"
            "patch_size=8,qkv_bias=false",
        ),
        # As DINOv2 with registers, none of which has a position.
        (
            VisionTransformer(
                **TINY_VIT, num_classes=0, init_values=1.0, reg_tokens=4, no_embed_class=True
            ),
            f"timm:vit_small_patch14_reg4_dinov2:{TINY},img_size=32,num_heads=1,patch_size=8",
        ),
        # 180 hidden channels are 2.8125 times 64.
        (
            VisionTransformer(**TINY_VIT, num_classes=0, mlp_ratio=2.8125, final_norm=False),
            f"timm:vit_tiny_patch16_224:{TINY},final_norm=false,img_size=32,mlp_ratio=2.8125,"
            "num_heads=1,patch_size=8",
        ),
        # Grey images.
        (
            ConvNeXt(in_chans=1, num_classes=0, depths=(1, 1, 2, 1), dims=(8, 16, 32, 64)),
            "timm:convnext_atto:conv_mlp=false,depths=[1,1,2,1],dims=[8,16,32,64]",
        ),
        # Stages of 8 x 8 and 4 x 4 patches: a window of 4, which the second fills.
        (
            SwinTransformer(
                img_size=32, num_classes=0, embed_dim=8, depths=(2, 2), num_heads=(1, 2),
                window_size=4,
            ),
            "timm:swin_tiny_patch4_window7_224:depths=[2,2],embed_dim=8,img_size=32,"
            "num_heads=[1,2],window_size=4",
        ),
        # Stages of 10 x 10, 5 x 5 and, rounded up, 3 x 3 patches: the second says the size.
        (
            SwinTransformer(
                img_size=40, num_classes=0, embed_dim=8, depths=(1, 1, 1), num_heads=(1, 1, 2),
                window_size=8,
            ),
            "timm:swin_tiny_patch4_window7_224:depths=[1,1,1],embed_dim=8,img_size=40,"
            "num_heads=[1,1,2],window_size=8",
        ),
    ],
)  # fmt: skip
def test_a_network_without_a_name_is_called_by_what_it_departs_in(network, arch):
    filled(network)
    state = network.state_dict()
    assert infer_arch(state) == (arch, 1)
    in_chans = 1 if isinstance(network, ConvNeXt) else 3
    again = build_network(arch, in_chans=in_chans).eval()
    again.load_state_dict(state, strict=True)
    size = 40 if "img_size=40" in arch else 32
    images = torch.randn(2, in_chans, size, size)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))


def test_a_small_dinov3_is_told_from_one_without_biases():
    arch = "timm:vit_small_patch16_dinov3:depth=1,embed_dim=256,num_heads=4"
    with_biases = arch.replace("vit_small_patch16_dinov3", "vit_tiny_patch16_dinov3_qkvb")
    assert infer_arch(planned(arch)) == (arch, 1)
    assert infer_arch(planned(with_biases)) == (with_biases, 1)


# What weights cannot tell.


def test_heads_are_the_named_networks_then_one_for_64_channels_unless_the_format_knows():
    huge = planned("timm:vit_huge_patch14_224:depth=1")
    # timm's has 16 heads of 80 channels.
    assert infer_arch(huge) == ("timm:vit_huge_patch14_224:depth=1", 1)
    assert infer_arch(huge, heads={1280: 20, 64: 3})[0].endswith(":depth=1,num_heads=20")

    narrow = planned("timm:vit_tiny_patch16_224:depth=1,embed_dim=96")
    with pytest.raises(UsageError, match=r"96 wide does not say how many heads.*num_heads="):
        infer_arch(narrow)
    assert infer_arch(narrow, heads={96: 3}) == (
        "timm:vit_tiny_patch16_224:depth=1,embed_dim=96",
        1,
    )


@pytest.mark.parametrize(
    ("name", "options", "written"),
    [
        ("vit_tiny_patch16_224", {"norm_eps": 1e-6, "global_pool": "token"}, ""),
        ("vit_tiny_patch16_224", {"norm_eps": 1e-5}, ":norm_eps=1e-05"),
        ("vit_base_patch16_clip_224", {"norm_eps": 1e-5, "act_layer": None}, ""),
        ("vit_base_patch16_clip_224", {"act_layer": "quick_gelu"}, ":act_layer=quick_gelu"),
        # The norm that the file has lies before the pooling.
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, ":fc_norm=false,global_pool=avg"),
        ("vit_small_patch16_dinov3", {"global_pool": "avg"}, ""),
        ("vit_small_patch16_dinov3", {"global_pool": "token"}, ":global_pool=token"),
    ],
)
def test_what_the_format_knows_is_written_where_the_named_network_has_it_otherwise(
    name, options, written
):
    assert infer_arch(planned(f"timm:{name}"), options=options) == (f"timm:{name}{written}", 1)


@pytest.mark.parametrize("group", TWINS, ids=lambda group: group[0])
def test_twins_cannot_be_told_apart_by_names_and_shapes(group):
    shapes = [{n: t.shape for n, t in planned(arch).items()} for arch in group]
    assert shapes == [shapes[0]] * len(group)
    assert twins_of(group[0]) == group[1:]


@pytest.mark.parametrize(
    "group", [("resnet50", *twins_of("resnet50")), ("timm:vit_small_patch16_224",
    "vit_small_mocov3")], ids=lambda group: group[0]
)  # fmt: skip
def test_twins_compute_something_else(group):
    torch.manual_seed(1)
    networks = [build_network(arch).eval() for arch in group]
    images = torch.randn(1, 3, 224 if "vit" in group[0] else 64, 224 if "vit" in group[0] else 64)
    with torch.inference_mode():
        for network in networks[1:]:
            network.load_state_dict(networks[0].state_dict())
            assert not torch.allclose(network(images), networks[0](images), rtol=1e-3)


def test_an_architecture_without_twins_has_none():
    assert twins_of("timm:convnext_tiny") == ()
    assert "timm:vit_small_patch16_224" in twins_of("vit_small_mocov3")


# What is no network of ours.


def test_the_share_counts_the_names_of_both_sides():
    state = planned("resnet18")
    # 20 convolutions and 20 BatchNorms of four tensors each, counters aside.
    del state["layer4.1.bn2.bias"]
    assert infer_arch(state) == ("resnet18", 99 / 100)
    state["neck.weight"] = torch.zeros(1)
    assert infer_arch(state) == ("resnet18", 99 / 101)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"patch_embed.proj.weight": torch.zeros(3), "blocks.0.attn.qkv.weight": torch.zeros(3)},
        {"stages.0.blocks.0.conv_dw.weight": torch.zeros(3)},
        {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(0, 0)},
        {"conv1.weight": torch.zeros(64, 3, 7)},
    ],
)
def test_what_resembles_nothing_agrees_on_nothing(state):
    arch, share = infer_arch(state)
    assert arch
    assert share == 0
