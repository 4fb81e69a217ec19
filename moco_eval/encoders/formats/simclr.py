"""SimCLR: two re-implementations in PyTorch, Google's own checkpoints, and two conversions of them.

None of them normalises images: pixels lie on 0-1.
"""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import UNIT
from moco_eval.encoders.formats.layout import Format, Tower
from moco_eval.encoders.formats.transforms_resnet import from_simclr_variables

_TRAINED_IN_TENSORFLOW = (
    "TensorFlow, in which it was trained, pads the max pooling on the right and below only; here "
    "it is padded on all sides: about 0.2 points of accuracy"
)
# Separius' blocks are a list whose odd members wrap the norms.
_SEPARIUS_NAMES = (
    (r"^net\.0\.0\.", "conv1."),
    (r"^net\.0\.1\.0\.", "bn1."),
    (r"^net\.(\d)\.blocks\.(\d+)\.", r"layer\1.\2."),
    (r"\.projection\.shortcut\.", ".downsample.0."),
    (r"\.projection\.bn\.0\.", ".downsample.1."),
    *((rf"\.net\.{2 * number - 2}\.", f".conv{number}.") for number in (1, 2, 3)),
    *((rf"\.net\.{2 * number - 1}\.0\.", f".bn{number}.") for number in (1, 2, 3)),
)
_SEPARIUS = "Separius/SimCLRv2-Pytorch@f4c2f41: convert.py, resnet.py"

SIMCLR = (
    Format(
        name="simclr-sthalles",
        title="SimCLR in PyTorch by sthalles",
        towers=(Tower(containers=(("state_dict",),), prefixes=("backbone.",)),),
        says=(("arch",),),
        marks=("backbone.conv1.weight", "backbone.fc.0.weight", "backbone.fc.2.weight"),
        # Nothing lies beside the backbone, which has the projector for a classifier.
        unmarked=("[!b]*",),
        drop=("fc.*",),
        arch=("arch",),
        input=UNIT,
        source="sthalles/SimCLR@1848fc9: models/resnet_simclr.py, simclr.py",
    ),
    Format(
        name="simclr-spijkervet",
        title="SimCLR in PyTorch by Spijkervet, with Lightning or without",
        towers=(Tower(containers=((), ("state_dict",)), prefixes=("encoder.", "model.encoder.")),),
        marks=("encoder.conv1.weight", "*projector.0.weight", "*projector.2.weight"),
        # The projector's layers have no biases, which other authors' have.
        unmarked=("*projector.*.bias",),
        drop=("projector.*", "model.projector.*", "fc.*"),
        input=UNIT,
        source="Spijkervet/SimCLR@2738efa: simclr/simclr.py, main_pl.py",
    ),
    Format(
        name="simclr-tonylins",
        title="Google's SimCLR v1 converted by tonylins, 1x, 2x or 4x wide",
        towers=(Tower(containers=(("state_dict",),)),),
        marks=("conv1.weight", "layer1.0.conv1.weight", "fc.weight"),
        # The shortcut first, as TensorFlow's variables: torchvision's own files have it last.
        order=("layer1.0.downsample.0.weight", "layer1.0.conv1.weight"),
        drop=("fc.*",),
        input=UNIT,
        caveat=_TRAINED_IN_TENSORFLOW,
        source="tonylins/simclr-converter@139d3cb: convert.py, resnet_wider.py",
    ),
    Format(
        name="simclr-separius-sk",
        title="Google's SimCLR v2 with selective kernels, converted by Separius",
        towers=(Tower(containers=(("resnet",),)),),
        marks=("net.*.mixing_conv.*",),
        refused=(
            "selective kernels (sk1) are built by neither torchvision, timm nor Detectron2 as "
            "SimCLR v2 has them. Take the file of the same network with sk0."
        ),
        source=_SEPARIUS,
    ),
    Format(
        name="simclr-separius",
        title="Google's SimCLR v2 converted by Separius, without selective kernels",
        towers=(Tower(containers=(("resnet",),)),),
        marks=("net.0.0.weight", "net.1.blocks.0.net.*"),
        drop=("fc.*",),
        rename=_SEPARIUS_NAMES,
        input=UNIT,
        caveat=_TRAINED_IN_TENSORFLOW,
        source=_SEPARIUS,
    ),
    Format(
        name="simclr-tensorflow",
        title="Google's SimCLR v1 and v2 as TensorFlow saved them: the .index file",
        towers=(
            Tower(name="base_model", prefixes=("base_model/",)),
            Tower(name="ema_model", prefixes=("ema_model/base_model/",)),
        ),
        marks=("*base_model/conv2d/kernel", "*base_model/batch_normalization/moving_mean"),
        drop=(
            *("head_contrastive/*", "head_supervised/*", "ema_model/head_*"),
            *("*/Momentum", "global_step"),
        ),
        transform=from_simclr_variables,
        input=UNIT,
        caveat=_TRAINED_IN_TENSORFLOW,
        source="google-research/simclr@383d414: resnet.py, model.py",
    ),
)
