"""ViTs for Detectron2's ViTDet: names, folding, positions, refusals, and its own view of them."""

import math

import pytest
import torch
import yaml
from timm.layers import LayerScale, resample_abs_pos_embed

from moco_eval.convert import convert
from moco_eval.encoders.exports import vitdet
from moco_eval.encoders.load import load_encoder
from moco_eval.engines import has_detectron2
from moco_eval.errors import CheckpointError, UsageError

LIBRARY = "detectron2" if has_detectron2() else "moco-eval"
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def exported(encoder, path, **options):
    proof = convert(encoder, path, "detectron2", **options)
    return proof, torch.load(path, weights_only=True)["model"]


def test_what_follows_the_blocks_and_the_class_token_are_left_out(tmp_path, tiny_vit):
    proof, model = exported(tiny_vit(), tmp_path / "vit.pth")
    # Positions, patches, and in 2 blocks 2 norms and 4 layers, all but the first with biases.
    assert len(model) == 1 + 2 + 2 * 6 * 2
    assert not [n for n in model if n.startswith(("norm", "cls_token", "head"))]
    assert proof["reloaded_in"] == LIBRARY
    assert proof["relative_difference"]["last_feat"] < 1e-5
    # 4 x 4 patches and the class token's row.
    assert model["pos_embed"].shape == (1, 17, 32)


def test_the_yaml_says_what_the_transformer_is_built_with(tmp_path, tiny_vit):
    encoder = tiny_vit("mlp_ratio=3.0,norm_eps=1e-05,qkv_bias=false", mean=(0.5,) * 3)
    exported(encoder, tmp_path / "vit.pth")
    lines = yaml.safe_load((tmp_path / "vit.pth.yaml").read_text())
    assert lines["MODEL"]["PIXEL_MEAN"] == [127.5] * 3
    assert lines["INPUT"] == {"FORMAT": "RGB"}
    assert lines["VITDET"] == {
        "patch_size": 16,
        "in_chans": 3,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 3.0,
        "qkv_bias": False,
        "norm_eps": 1e-5,
        "pretrain_img_size": 64,
        "pretrain_use_cls_token": True,
    }


def test_the_features_are_timms_where_there_is_no_class_token(tmp_path, tiny_vit):
    # As in I-JEPA: then timm's own blocks see what ViTDet's see.
    encoder = tiny_vit("class_token=false,global_pool=avg")
    _, model = exported(encoder, tmp_path / "vit.pth")
    assert model["pos_embed"].shape == (1, 16, 32)
    last = encoder.network.forward_intermediates(
        IMAGES, indices=1, norm=False, intermediates_only=True
    )[0]
    plan = vitdet.Plan(**yaml.safe_load((tmp_path / "vit.pth.yaml").read_text())["VITDET"])
    assert plan.pretrain_use_cls_token is False
    found = vitdet.reload_without_detectron2(plan, tmp_path / "vit.pth")
    assert found.library == "moco-eval"
    assert torch.allclose(found.outputs(IMAGES)["last_feat"], last, atol=1e-5)


def test_layer_scale_is_folded_into_the_layer_before_it(tmp_path, tiny_vit):
    encoder = tiny_vit("init_values=0.5")
    gamma = encoder.network.blocks[1].ls2
    assert isinstance(gamma, LayerScale)
    _, model = exported(encoder, tmp_path / "vit.pth")
    layer = encoder.network.blocks[1].mlp.fc2
    assert not [name for name in model if "gamma" in name]
    # Row n of the layer gives channel n, which gamma[n] scales.
    assert torch.equal(model["blocks.1.mlp.fc2.weight"][5], layer.weight[5] * gamma.gamma[5])
    assert torch.equal(model["blocks.1.mlp.fc2.bias"], layer.bias * gamma.gamma)
    # The encoder itself stays as it was.
    assert (
        encoder.network.blocks[0].attn.proj.weight[0, 0] != model["blocks.0.attn.proj.weight"][0, 0]
    )


def test_positions_are_resampled_where_that_is_asked(tmp_path, tiny_vit):
    encoder = tiny_vit()
    proof, model = exported(encoder, tmp_path / "vit.pth", position_size=96)
    # 6 x 6 patches.
    expected = resample_abs_pos_embed(encoder.network.pos_embed, [6, 6], [4, 4])
    assert torch.equal(model["pos_embed"], expected)
    assert (
        yaml.safe_load((tmp_path / "vit.pth.yaml").read_text())["VITDET"]["pretrain_img_size"] == 96
    )
    assert proof["relative_difference"]["last_feat"] < 1e-5
    with pytest.raises(UsageError, match="images of 90 pixels need whole patches of 16"):
        exported(encoder, tmp_path / "other.pth", position_size=90)


def test_mocos_own_transformer_goes_to_vitdet(tmp_path, scrambled):
    proof, model = exported(scrambled("vit_digits", size=32), tmp_path / "vit.pth")
    assert proof["relative_difference"]["last_feat"] < 1e-5
    assert model["patch_embed.proj.weight"].shape == (96, 3, 4, 4)


def test_a_backbone_without_class_token_is_not_read_back_as_the_encoder(tmp_path, tiny_vit):
    exported(tiny_vit(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"missing \(\d+ expected\): cls_token"):
        load_encoder(str(tmp_path / "vit.pth"))


UNSUITED = [
    ("patch_size=14,img_size=56", "patches of 14x14 pixels: ViTDet's pyramid needs a power"),
    ("reg_tokens=4", "4 register tokens"),
    ("pre_norm=true", "a norm before the blocks"),
    ("qk_norm=true", "norms of queries and keys"),
    ("act_layer=quick_gelu", "the activation QuickGELU"),
    ("act_layer=gelu_tanh", "the activation GELUTanh"),
    ("pos_embed=none", "no absolute positions"),
    ("proj_bias=false", "no blocks.0.attn.proj.bias, no blocks.0.mlp.fc1.bias"),
]


@pytest.mark.parametrize(("options", "reason"), UNSUITED)
def test_what_vitdet_cannot_express_is_refused_by_name(tmp_path, tiny_vit, options, reason):
    with pytest.raises(UsageError, match=rf"cannot be written for detectron2: it has .*{reason}"):
        convert(tiny_vit(options), tmp_path / "vit.pth", "detectron2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("timm:vit_small_patch16_dinov3", "rotary positions"),
        ("timm:vit_giant_patch14_dinov2", "an MLP of the kind GluMlp, such as SwiGLU"),
        ("timm:deit_tiny_distilled_patch16_224", "a distillation token"),
        ("vit_conv_small_mocov3", "a stem of several convolutions"),
    ],
)
def test_other_transformers_are_refused_by_name(tmp_path, on_meta, arch, reason):
    with pytest.raises(UsageError, match=f"it has .*{reason}"):
        convert(on_meta(arch), tmp_path / "vit.pth", "detectron2")
    assert not list(tmp_path.iterdir())


@pytest.mark.detectron2
@pytest.mark.parametrize("use_rel_pos", [False, True])
@pytest.mark.parametrize("options", ["init_values=0.5", "class_token=false,global_pool=avg"])
def test_vitdets_backbone_has_the_same_last_map(tmp_path, tiny_vit, use_rel_pos, options):
    from detectron2.checkpoint import DetectionCheckpointer

    from moco_eval.engines.detectron.backbones import build_vit

    encoder = tiny_vit(options)
    path = tmp_path / "vit.pth"
    exported(encoder, path)
    plan = vitdet.Plan(**yaml.safe_load(path.with_name("vit.pth.yaml").read_text())["VITDET"])
    net = build_vit(plan, use_rel_pos=use_rel_pos)
    # Below backbone.net., as in ViTDet, where heuristics must find the names.
    detector = torch.nn.ModuleDict({"backbone": torch.nn.ModuleDict({"net": net})}).eval()
    DetectionCheckpointer(detector).load(str(path))
    with torch.no_grad():
        theirs = net(IMAGES)["last_feat"]
        network = encoder.network
        hidden = network.patch_embed(IMAGES) + network.pos_embed[:, -16:]
        for block in network.blocks:
            hidden = block(hidden)
    side = math.isqrt(hidden.shape[1])
    ours = hidden.transpose(1, 2).reshape(2, 32, side, side)
    assert (theirs - ours).abs().max() / ours.abs().max() < 1e-5
