"""MoCo's own checkpoints, and what this project's programs write."""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import IMAGENET
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Tower
from moco_eval.encoders.reading.reader import RECORD

_STATE = (("state_dict",),)

# Our own record, which a file of any layout may carry, is looked for first.
CONVERTED = Format(
    name="moco-eval",
    title="a file of moco-eval convert, with its record",
    says=((RECORD,),),
    arch=(RECORD, "arch"),
    source="moco_eval/encoders/exports/export.py",
)

MOCO = (
    Format(
        name="moco",
        title="MoCo v1 and v2, and what moco-pretrain writes",
        towers=(
            Tower(name="encoder_q", containers=_STATE, prefixes=("encoder_q.",)),
            Tower(name="encoder_k", containers=_STATE, prefixes=("encoder_k.",)),
        ),
        marks=("encoder_q.*",),
        # A memory bank of all images' keys stands in the place of key encoder and queue.
        drop=("fc.*", f"{CLASSIFIER}.*", "queue", "queue_ptr", "bank"),
        arch=("arch",),
        input=IMAGENET,
        source="facebookresearch/moco@7397dfe: moco/builder.py, main_lincls.py",
    ),
    Format(
        name="mocov3",
        title="MoCo v3, ResNets and ViTs, and what moco-pretrain writes of it",
        towers=(
            Tower(name="base_encoder", containers=_STATE, prefixes=("base_encoder.",)),
            Tower(name="momentum_encoder", containers=_STATE, prefixes=("momentum_encoder.",)),
        ),
        marks=("base_encoder.*", "momentum_encoder.*"),
        drop=("fc.*", f"{CLASSIFIER}.*", "predictor.*"),
        arch=("arch",),
        arch_names=(
            ("vit_small", "vit_small_mocov3"),
            ("vit_base", "vit_base_mocov3"),
            ("vit_conv_small", "vit_conv_small_mocov3"),
            ("vit_conv_base", "vit_conv_base_mocov3"),
        ),
        input=IMAGENET,
        source="facebookresearch/moco-v3@c349e6e: moco/builder.py, vits.py, main_lincls.py",
    ),
)

# Only where no author's marks are found: the file names its architecture and how it is fed.
PRETRAINED = Format(
    name="moco-pretrain",
    title="what moco-pretrain writes of a supervised baseline that is no ResNet",
    towers=(Tower(containers=_STATE),),
    says=((RECORD,), ("arch",)),
    drop=(f"{CLASSIFIER}.*",),
    arch=("arch",),
    source="pretrain/train.py",
)
