"""Detectron2's names of ResNets, the way back, and Caffe2's."""

from __future__ import annotations

import math
import re

from torch import Tensor

from moco_eval.encoders.formats.inputs import CAFFE, IMAGENET
from moco_eval.encoders.formats.layout import Format, Tower
from moco_eval.encoders.formats.transforms_resnet import with_statistics

_DETECTRON2 = "facebookresearch/detectron2@02b5c4e2"

# Theirs and torchvision's, literally; ``^`` begins a name. Read backwards it leads to Detectron2.
DETECTRON2_NAMES = (
    ("^stem.conv1.norm.", "^bn1."),
    ("^stem.conv1.", "^conv1."),
    (".conv1.norm.", ".bn1."),
    (".conv2.norm.", ".bn2."),
    (".conv3.norm.", ".bn3."),
    (".shortcut.norm.", ".downsample.1."),
    (".shortcut.", ".downsample.0."),
    ("^res2.", "^layer1."),
    ("^res3.", "^layer2."),
    ("^res4.", "^layer3."),
    ("^res5.", "^layer4."),
)
FROM_DETECTRON2 = tuple(
    (re.escape(theirs).replace(r"\^", "^"), ours.removeprefix("^"))
    for theirs, ours in DETECTRON2_NAMES
)


def to_detectron2(name: str) -> str:
    """Detectron2's name of a torchvision ResNet's tensor."""
    renamed = f"^{name}"
    for theirs, ours in DETECTRON2_NAMES:
        renamed = renamed.replace(ours, theirs)
    return renamed.removeprefix("^")


# Caffe2's and torchvision's; what underlines join there, dots join here.
_BRANCHES = {"2a": "conv1", "2b": "conv2", "2c": "conv3"}
FROM_CAFFE2 = (
    (r"^res_conv1_bn_", "bn1."),
    (r"^conv1_", "conv1."),
    *((rf"^res{stage + 1}_(\d+)_", rf"layer{stage}.\1.") for stage in (1, 2, 3, 4)),
    (r"branch1_bn_", "downsample.1."),
    (r"branch1_", "downsample.0."),
    *((f"branch{branch}_bn_", f"bn{ours[-1]}.") for branch, ours in _BRANCHES.items()),
    *((f"branch{branch}_", f"{ours}.") for branch, ours in _BRANCHES.items()),
    # Affine layers' or whole norms', as the file has them.
    (r"\.(w|s|gamma)$", ".weight"),
    (r"\.(b|beta)$", ".bias"),
)
# Beside the backbone, of R-CNNs, RetinaNet and panoptic FPN. A C4 model's last stage is a head's.
_DETECTOR = (
    *("backbone.fpn_*", "backbone.top_block.*", "proposal_generator.*", "anchor_generator.*"),
    *("roi_heads.[!r]*", "roi_heads.res5.norm.*", "head.*", "sem_seg_head.*"),
    *("pixel_mean", "pixel_std"),
)


def without_class_position(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ViT's tensors without the class token's row of its positions, where they have one.

    ViTDet keeps the row of its pretraining and has no such token.
    """
    positions = tensors.get("pos_embed")
    if positions is None or positions.dim() != 3:
        return tensors
    count = positions.shape[1]
    has_row = math.isqrt(count) ** 2 != count and math.isqrt(count - 1) ** 2 == count - 1
    return tensors | ({"pos_embed": positions[:, 1:]} if has_row else {})


DETECTION = (
    Format(
        name="detectron2",
        title="a ResNet of torchvision or MoCo converted for Detectron2, .pth or .pkl",
        towers=(Tower(containers=(("model",),)),),
        marks=("stem.conv1.weight", "res2.*"),
        drop=("stem.fc.*",),
        rename=FROM_DETECTRON2,
        input=IMAGENET,
        source=f"{_DETECTRON2}: tools/convert-torchvision-to-d2.py",
    ),
    Format(
        name="detectron2-model",
        title="a detector of Detectron2; its config says how the ResNet is built and fed",
        towers=(Tower(name="backbone", containers=(("model",),)),),
        marks=("backbone.*stem.conv1.weight", "backbone.*res2.*"),
        drop=_DETECTOR,
        rename=(
            (r"^backbone\.(bottom_up\.)?", ""),
            (r"^roi_heads\.res5\.", "res5."),
            *FROM_DETECTRON2,
        ),
        # STRIDE_IN_1X1.
        twins=True,
        source=f"{_DETECTRON2}: modeling/meta_arch, modeling/roi_heads",
    ),
    Format(
        name="vitdet",
        title="a detector of Detectron2 with a ViT; its config says how the ViT is fed",
        towers=(Tower(name="backbone", containers=(("model",),), prefixes=("backbone.net.",)),),
        marks=("backbone.net.patch_embed.proj.weight", "backbone.net.blocks.0.attn.qkv.weight"),
        drop=(*_DETECTOR, "backbone.simfp_*", "*.attn.rel_pos_h", "*.attn.rel_pos_w"),
        transform=without_class_position,
        heads={1280: 16},
        options={"norm_eps": 1e-6, "global_pool": "avg"},
        caveat=(
            "in the detector most blocks attend within windows and add relative positions, which "
            "are left out here: every patch attends to every other"
        ),
        source=f"{_DETECTRON2}: modeling/backbone/vit.py, projects/ViTDet",
    ),
    Format(
        name="caffe2",
        title="MSRA's ResNets as Caffe2 has them, which Detectron2 begins with",
        towers=(Tower(containers=(("blobs",), ())),),
        marks=("conv1_w", "res_conv1_bn_*", "res2_0_branch2a_w"),
        drop=("*_momentum", "pred_*", "fc1000_*", "lr", "model_iter"),
        rename=FROM_CAFFE2,
        transform=with_statistics,
        arch_names=((r"(resnet\d+)", r"\1_v1"),),
        input=CAFFE,
        # Of which some were trained on images divided by their s.d.
        input_unless=r"resnext.+",
        source=f"{_DETECTRON2}: checkpoint/c2_model_loading.py",
    ),
)
