"""DINO, iBOT, DINOv2 and DINOv3: students that learn from a teacher, their own running average."""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import IMAGENET_BICUBIC
from moco_eval.encoders.formats.layout import Format, Tower
from moco_eval.encoders.formats.transforms import from_dinov3, with_registers

# The teacher is what the authors evaluate and publish.
_TEACHER_AND_STUDENT = tuple(
    Tower(name=name, containers=((name,),), prefixes=("backbone.",))
    for name in ("teacher", "student")
)
_DINO = "facebookresearch/dino@7c446df: "
_IBOT = "bytedance/ibot@da316d8: "
_DINOV2 = "facebookresearch/dinov2@b8931f7: "
_DINOV3 = "facebookresearch/dinov3@6876159: "
_VIT = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "cls_token")
# What would make it another author's ViT, or one with a classifier.
_NOT_BARE = ("head.*", "fc.*", "mask_token", "*decoder_*", "*.ls1.*", "*.gamma_1", "norm_pre.*")

# Microsoft's Swin shrinks the map at the end of a stage, timm's at the beginning of the next.
SWIN_NAMES = tuple(
    (rf"^layers\.{stage}\.downsample\.", f"layers.{stage + 1}.downsample.") for stage in (2, 1, 0)
)
SWIN_BUFFERS = ("*.relative_position_index", "*.attn_mask")
# SwiGLU's two matrices, the first of which timm calls as an MLP's.
SWIGLU_NAMES = ((r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."))
_DINOV2_NAMES = (*SWIGLU_NAMES, (r"^register_tokens$", "reg_token"))
_DINOV3_NAMES = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
# The authors' ConvNeXt, and DINOv3's, as timm names it.
CONVNEXT_NAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
)
# Where timm would have the mean of the patches, the authors take the class token.
DINOV3_OPTIONS = {"global_pool": "token", "norm_eps": 1e-5}
# ViT-L and ViT-7B were also trained on satellite images, which are normalised otherwise.
DINOV3_TWICE = r"timm:vit_(large|7b)_patch16_dinov3.*"

DISTILLATION = (
    Format(
        name="ibot",
        title="iBOT, ViTs and Swins; the teacher",
        towers=_TEACHER_AND_STUDENT,
        says=(("ibot_loss",),),
        marks=("backbone.*", "head.last_layer*"),
        drop=("head.*", "masked_embed", *SWIN_BUFFERS),
        rename=SWIN_NAMES,
        input=IMAGENET_BICUBIC,
        source=f"{_IBOT}main_ibot.py, models/vision_transformer.py, models/swin_transformer.py",
    ),
    Format(
        name="dino",
        title="DINO, ViTs and ResNets; the teacher",
        towers=_TEACHER_AND_STUDENT,
        says=(("dino_loss",),),
        marks=("backbone.*", "head.last_layer*"),
        drop=("head.*",),
        input=IMAGENET_BICUBIC,
        source=f"{_DINO}main_dino.py, utils.py",
    ),
    Format(
        name="dinov3",
        title="DINOv3's ViTs: published, under 'teacher', or as a distributed checkpoint",
        towers=(
            Tower(
                name="teacher",
                containers=((), ("teacher",), ("model",)),
                prefixes=("backbone.", ""),
            ),
        ),
        marks=("*rope_embed.periods", "*blocks.0.ls1.gamma"),
        drop=("mask_token", "local_cls_norm.*", "dino_head.*", "ibot_head.*"),
        rename=_DINOV3_NAMES,
        transform=from_dinov3,
        options=DINOV3_OPTIONS,
        input=IMAGENET_BICUBIC,
        input_unless=DINOV3_TWICE,
        source=(
            f"{_DINOV3}hub/backbones.py, models/vision_transformer.py, layers/attention.py, "
            "checkpointer/checkpointer.py"
        ),
    ),
    Format(
        name="dinov3-convnext",
        title="DINOv3's ConvNeXts: published, under 'teacher', or as a distributed checkpoint",
        towers=(
            Tower(
                name="teacher",
                containers=((), ("teacher",), ("model",)),
                prefixes=("backbone.", ""),
            ),
        ),
        # The last norm lies in the file twice.
        marks=("*downsample_layers.0.0.weight", "*norms.3.weight"),
        drop=("norms.*", "dino_head.*", "ibot_head.*"),
        rename=CONVNEXT_NAMES,
        input=IMAGENET_BICUBIC,
        source=f"{_DINOV3}models/convnext.py",
    ),
    Format(
        name="dinov2-teacher",
        title="DINOv2's teacher_checkpoint.pth",
        towers=(Tower(name="teacher", containers=(("teacher",),), prefixes=("backbone.",)),),
        marks=("backbone.blocks.*.ls1.gamma", "backbone.pos_embed", "dino_head.*"),
        drop=("mask_token", "dino_head.*", "ibot_head.*"),
        # Blocks lie in chunks, and are numbered across them.
        rename=((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."), *_DINOV2_NAMES),
        transform=with_registers,
        input=IMAGENET_BICUBIC,
        source=f"{_DINOV2}dinov2/train/train.py, dinov2/train/ssl_meta_arch.py",
    ),
    Format(
        name="dinov2",
        title="DINOv2's published backbones, with registers or without",
        marks=("pos_embed", "mask_token", "blocks.0.ls1.gamma"),
        drop=("mask_token",),
        rename=_DINOV2_NAMES,
        transform=with_registers,
        input=IMAGENET_BICUBIC,
        source=f"{_DINOV2}dinov2/hub/backbones.py, dinov2/models/vision_transformer.py",
    ),
    Format(
        name="dino-backbone",
        title="DINO's published ViTs: bare names of timm's without a classifier",
        marks=_VIT,
        unmarked=_NOT_BARE,
        asked=True,
        input=IMAGENET_BICUBIC,
        source=f"{_DINO}hubconf.py",
    ),
    Format(
        name="ibot-backbone",
        title="a ViT or Swin that iBOT's extract_backbone_weights.py took out",
        towers=(Tower(containers=(("state_dict",), ())),),
        marks=("patch_embed.proj.weight",),
        unmarked=_NOT_BARE,
        asked=True,
        drop=("masked_embed", *SWIN_BUFFERS),
        rename=SWIN_NAMES,
        input=IMAGENET_BICUBIC,
        source=f"{_IBOT}extract_backbone_weights.py",
    ),
)
