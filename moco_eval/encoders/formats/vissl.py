"""VISSL's checkpoints and what its scripts make of them."""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import IMAGENET
from moco_eval.encoders.formats.layout import Format, Tower

_VISSL = "facebookresearch/vissl@09270ed2:"
_BLOCKS = "_feature_blocks."
_TRUNK = ("model", "trunk")
_FED = (
    "VISSL's files do not say how their images were prepared: those of the zoo whose names end in "
    "_bgr saw blue first, and those of colorization the lightness alone."
)

VISSL = (
    Format(
        name="vissl",
        title="VISSL, ResNets and ResNeXts of any width",
        towers=(
            # DINO's teacher is a part of its loss.
            Tower(
                name="momentum_teacher",
                containers=(("classy_state_dict", "loss"),),
                prefixes=(
                    f"momentum_teacher.module.trunk.{_BLOCKS}",
                    f"momentum_teacher.trunk.{_BLOCKS}",
                ),
            ),
            *(
                Tower(
                    name=name,
                    containers=(("classy_state_dict", name, *_TRUNK),),
                    prefixes=(_BLOCKS, f"base_model.{_BLOCKS}"),
                )
                for name in ("base_model", "ema_model")
            ),
        ),
        marks=(f"*{_BLOCKS}*layer1.*",),
        drop=("momentum_teacher.*heads.*", "center", "teacher_temp"),
        input=IMAGENET,
        caveat=_FED,
        source=f"{_VISSL} vissl/utils/checkpoint.py, vissl/models/trunks/resnext.py",
    ),
    # Once the blocks' prefix is removed, the names are torchvision's and so is the format.
    Format(
        name="vissl-trunk",
        title="a trunk that VISSL's scripts took out of its checkpoint",
        towers=(Tower(name="trunk", containers=(("model_state_dict",), ()), prefixes=(_BLOCKS,)),),
        marks=(f"{_BLOCKS}layer1.0.conv1.weight",),
        drop=("fc.*",),
        input=IMAGENET,
        caveat=_FED,
        source=f"{_VISSL} extra_scripts/convert_vissl_to_torchvision.py",
    ),
)
