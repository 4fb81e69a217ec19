"""Semantic segmentation's numbers, and the named sets of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from moco_eval.engines.recipe import Training
from moco_eval.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SemanticRecipe(Training):
    """What a segmentation network is trained and tested with.

    Attributes:
        head: ``fcn``: a ResNet's ``res5`` with stride 1 and dilation 2, two 3x3 convolutions with
            BatchNorm and ReLU and a classifier. ``linear``: BatchNorm and a classifier on the
            frozen encoder's last map, of a transformer its patch tokens.
        crop: Side of a training image, in pixels.
        scales: The image is scaled by a number between these before it is cropped.
        flip: Whether training images are mirrored half the time.
        head_channels: Width of the ``fcn`` head.
        head_dilation: Of its two convolutions.
    """

    head: Literal["fcn", "linear"] = "fcn"
    crop: int
    scales: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    head_channels: int = 256
    head_dilation: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.crop, self.head_channels, self.head_dilation) < 1:
            raise UsageError(
                "A segmentation network needs positive numbers: "
                f"crop={self.crop}, head_channels={self.head_channels}, "
                f"head_dilation={self.head_dilation}."
            )
        if self.drop_path:
            raise UsageError("A segmentation network leaves out no branches: drop_path=0.")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise UsageError(f"scales={self.scales} is no range of positive numbers.")
        if self.head == "linear" and self.freeze != "encoder":
            raise UsageError(
                f"A linear head stands on a frozen encoder: freeze=encoder, not {self.freeze}. To "
                "train the encoder take a recipe with head=fcn."
            )

    @property
    def variant(self) -> str:
        """Two procedures: what tables must not mix."""
        return "semantic-linear" if self.head == "linear" else "semantic"


_FCN = SemanticRecipe(
    num_iterations=30_000, batch_total=16, lr=0.003, lr_drops=(21_000, 27_000), crop=513
)
# DINOv2's linear segmentation: AdamW, 1e-3, 40k updates of 16 images of 512 pixels, a warm-up of
# 1.5k; its patch tokens' last layer under BatchNorm and a 1x1 convolution. Unlike upstream: the
# rate falls in two steps, not linearly to 0; colours are not changed; an image is tested whole.
_LINEAR = SemanticRecipe(
    head="linear",
    freeze="encoder",
    num_iterations=40_000,
    batch_total=16,
    lr=1e-3,
    lr_drops=(28_000, 36_000),
    warmup_iterations=1500,
    warmup_start=1e-6,
    optimizer="adamw",
    crop=512,
)
_DIGITS = SemanticRecipe(
    num_iterations=1500,
    batch_total=4,
    lr=1e-3,
    lr_drops=(1050, 1350),
    warmup_iterations=20,
    optimizer="adamw",
    crop=97,
    scales=(0.75, 1.25),
    flip=False,
    head_dilation=2,
)

RECIPES = {
    # For the embedded digit scenes, within two minutes on one CPU core. A mirrored 2 is no 2. No
    # published number; this project's own are in results/.
    "digits-fcn": _DIGITS,
    # The same scenes under the frozen encoder.
    "digits-linear": replace(_DIGITS, head="linear", freeze="encoder"),
    # MoCo v1, arXiv:1911.05722, A.5: 30k updates on train_aug2012, the rate falls to a tenth at
    # 70% and 90%. Published: val2012, mIoU 72.5, from random weights 39.5.
    "voc-aug-fcn": _FCN,
    # The same appendix: 90k updates on train_fine, crops of 769. Published: val, mIoU 75.3.
    "cityscapes-fcn": replace(
        _FCN, num_iterations=90_000, lr=0.01, lr_drops=(63_000, 81_000), crop=769
    ),
    # DINOv2, arXiv:2304.07193, 7.4, and facebookresearch/dinov2's configurations of linear
    # heads, with the differences above. No number was published of exactly this.
    "voc-aug-linear": _LINEAR,
    "cityscapes-linear": _LINEAR,
}

_V1 = "MoCo v1, 200 epochs, ResNet-50"
_PAPER = "(arXiv:1911.05722, Table 6 and A.5)"
_OWN = "No published number; this project's own are in results/."
_NEAR = (
    "No published number of exactly these settings, which follow DINOv2's linear segmentation "
    "(arXiv:2304.07193, 7.4) but for the schedule and the whole image in testing."
)
PUBLISHED = {
    "digits-fcn": _OWN,
    "digits-linear": _OWN,
    "voc-aug-fcn": f"{_V1}, VOC 2012 train_aug to val, mean of 5: mIoU 72.5, pretrained on IG-1B "
    f"73.6; supervised 74.4, random 39.5 {_PAPER}",
    "cityscapes-fcn": f"{_V1}, Cityscapes train_fine to val, mean of 5: mIoU 75.3, pretrained on "
    f"IG-1B 75.5; supervised 74.6, random 65.3 {_PAPER}",
    "voc-aug-linear": _NEAR,
    "cityscapes-linear": _NEAR,
}
DEFAULT_RECIPE = "digits-fcn"
