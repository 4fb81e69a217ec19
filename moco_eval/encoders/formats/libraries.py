"""torchvision's and timm's own files, under the names that the rest of the field borrows."""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import IMAGENET
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Tower
from moco_eval.encoders.reading.reader import CONFIG

# Where the field puts a network's tensors.
USUAL = ((), ("model",), ("state_dict",))
_TIMM = "huggingface/pytorch-image-models 1.0.31: timm/"

LIBRARIES = (
    Format(
        name="timm-training",
        title="a checkpoint of timm's train.py; its averaged weights, where it has some",
        towers=(
            Tower(name="state_dict_ema", containers=(("state_dict_ema",),)),
            Tower(name="state_dict", containers=(("state_dict",),)),
        ),
        says=(("arch",), ("version",)),
        drop=(f"{CLASSIFIER}.*",),
        arch=("arch",),
        family="timm:",
        source=f"{_TIMM}utils/checkpoint_saver.py",
    ),
    Format(
        name="timm",
        title="a timm model's folder, as on the Hugging Face hub",
        says=((CONFIG, "architecture"),),
        drop=(f"{CLASSIFIER}.*",),
        arch=(CONFIG, "architecture"),
        family="timm:",
        licence=(CONFIG, "pretrained_cfg", "license"),
        source=f"{_TIMM}models/_hub.py",
    ),
    Format(
        name="torchvision",
        title="a torchvision ResNet, bare or under 'model', 'state_dict' or 'model_state_dict'",
        # The reference training keeps averaged weights beside.
        towers=(
            Tower(containers=(*USUAL, ("model_state_dict",))),
            Tower(name="model_ema", containers=(("model_ema",),)),
        ),
        marks=("conv1.weight", "layer1.0.conv1.weight"),
        drop=("fc.*", "n_averaged"),
        arch=("arch",),
        input=IMAGENET,
        source=(
            "pytorch/vision 0.29.2: torchvision/models/resnet.py, "
            "references/classification/train.py"
        ),
    ),
)

# Whose training they are of is not to be seen, and it decides how they are fed.
BARE = (
    Format(
        name="timm-vit",
        title="bare timm names of a ViT; needs --arch timm:NAME.TAG, which tells how it is fed",
        towers=(Tower(containers=USUAL),),
        marks=("patch_embed.proj.weight", "blocks.0.*"),
        drop=(f"{CLASSIFIER}.*",),
        source=f"{_TIMM}models/vision_transformer.py",
    ),
)
