"""MAE, MSN and I-JEPA, which learn from images of which they see a part; and what looks as MAE."""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import IMAGENET, IMAGENET_BICUBIC
from moco_eval.encoders.formats.layout import Format, Tower

_MAE = "facebookresearch/mae@efb2a80: "
_MODEL = (Tower(containers=(("model",),)),)
_VIT = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
# What would make it another author's ViT.
_OTHERS = ("*.ls1.*", "*.gamma_1", "norm_pre.*", "dist_token", "reg_token")
_TARGET_AND_ENCODER = tuple(
    Tower(name=name, containers=((name,),)) for name in ("target_encoder", "encoder")
)

MASKED = (
    Format(
        name="ijepa",
        title="I-JEPA; the target encoder",
        towers=_TARGET_AND_ENCODER,
        says=(("predictor",),),
        marks=_VIT,
        unmarked=("cls_token",),
        input=IMAGENET,
        source="facebookresearch/ijepa@52c1ae9: src/train.py, src/models/vision_transformer.py",
    ),
    Format(
        name="msn",
        title="MSN; the target encoder",
        towers=_TARGET_AND_ENCODER,
        # The projector stands in the classifier's place.
        marks=(*_VIT, "cls_token", "fc.fc1.weight", "fc.bn1.weight"),
        drop=("fc.*", "pred.*"),
        input=IMAGENET,
        source="facebookresearch/msn@4388dc1: src/msn_train.py, src/deit.py, linear_eval.py",
    ),
    Format(
        name="mae",
        title="MAE with its decoder",
        towers=_MODEL,
        marks=(*_VIT, "mask_token", "decoder_embed.weight"),
        drop=("mask_token", "decoder_*"),
        input=IMAGENET_BICUBIC,
        source=f"{_MAE}models_mae.py, util/misc.py",
    ),
    Format(
        name="mae-linprobe",
        title="MAE's linear probe",
        towers=_MODEL,
        # A BatchNorm without weights stands before the classifier.
        marks=(*_VIT, "head.0.running_mean", "head.1.weight"),
        drop=("head.*",),
        input=IMAGENET_BICUBIC,
        source=f"{_MAE}main_linprobe.py, models_vit.py",
    ),
    Format(
        name="mae-finetuned",
        title="MAE fine-tuned, which pools the patches",
        towers=_MODEL,
        marks=(*_VIT, "cls_token", "fc_norm.weight"),
        unmarked=("norm.weight", *_OTHERS),
        drop=("head.*",),
        input=IMAGENET_BICUBIC,
        source=f"{_MAE}main_finetune.py, models_vit.py",
    ),
    Format(
        name="mocov3-deit",
        title="MoCo v3's ViT through its convert_to_deit.py",
        towers=_MODEL,
        marks=(*_VIT, "cls_token", "norm.weight"),
        unmarked=("head.*", "mask_token", *_OTHERS),
        asked=True,
        arch_names=((r"timm:vit_small_patch16_224.*", "vit_small_mocov3"),),
        input=IMAGENET,
        source="facebookresearch/moco-v3@c349e6e: convert_to_deit.py",
    ),
    Format(
        name="mae-encoder",
        title="MAE's published encoders: 'model' holds a ViT-B, -L or -H without a classifier",
        towers=_MODEL,
        marks=(*_VIT, "cls_token", "norm.weight"),
        unmarked=("head.*", "fc.*", "mask_token", *_OTHERS),
        # DeiT's ViT-S has 6 heads, and MoCo v3's, which convert_to_deit.py leaves so, has 12.
        twins=True,
        input=IMAGENET_BICUBIC,
        # MAE has no smaller ones.
        input_unless=r"timm:vit_(tiny|medium)_.*",
        source=f"{_MAE}README.md, models_mae.py",
    ),
)
