"""The linear probe: a linear classifier on frozen features, with all labels.

A family of four protocols, whose ids records and tables keep apart:

``linear-sgd@1``: the papers' own procedures, a head trained on augmented images at a given learning
rate. ``linear-grid@1``: as that, with a grid of heads in one pass. Both: ``probes/train.py``.

``linear-lbfgs@1``: features of the test-time crop, computed once, optionally scaled to mean 0 and
s.d. 1; multinomial logistic regression by L-BFGS; C chosen on a fixed slice of the training set;
refitted on all of it (``probes/lbfgs.py``). ``linear-ridge@1``: as that, with least squares in
closed form (``probes/ridge.py``).

The test set is read once and chooses nothing, but for ``top1_best_on_test``, which says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moco_eval.data.splits import ImageData, MultiLabelData
from moco_eval.encoders.encoder import Encoder
from moco_eval.errors import DataError
from moco_eval.probes import lbfgs, ridge, train
from moco_eval.probes.recipes import Grid, Lbfgs, Ridge, Sgd
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources

VERSION = 1

Recipe = Sgd | Grid | Lbfgs | Ridge

# facebookresearch/moco, main_lincls.py; v2 has the same probe as v1.
_MOCO = Sgd(epochs=100, batch_total=256, schedule="drops", lr=30, lr_drops=(60, 80))

# facebookresearch/moco-v3, main_lincls.py and CONFIG.md: the rate is for 256 images.
_MOCOV3_RESNET50 = Sgd(epochs=90, batch_total=1024, schedule="cosine", lr=0.1)

# facebookresearch/swav, eval_linear.py.
_SWAV = Sgd(epochs=100, batch_total=256, schedule="cosine", lr=0.3, weight_decay=1e-6)

# The learning rates of facebookresearch/dinov2, dinov2/eval/linear.py, for 256 images.
_DINOV2_LRS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)

# Two orders of magnitude further up, as MoCo's 30 for features of small norm asks.
_WIDE_LRS = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

_GRID = Grid(
    epochs=10,
    batch_total=1024,
    schedule="cosine-by-step",
    lrs=_WIDE_LRS,
    weight_decays=(0.0, 1e-5),
    batch_norms=(False, True),
    drop_last=True,
)

RECIPES: dict[str, Recipe] = {
    # The probe of the 12-data-set transfer tables (Kornblith et al., arXiv:1805.08974; SimCLR,
    # arXiv:2002.05709, B.8): 45 values of C from 1e-6 to 1e5 on unscaled features.
    "lbfgs-45": Lbfgs(num_c=45, log10_c_min=-6, log10_c_max=5, chosen_by="top1", scaled=False),
    # For small sets, and the embedded digits: a coarser grid on scaled features.
    "lbfgs": Lbfgs(num_c=7, log10_c_min=-4, log10_c_max=2),
    # This project's own: seconds where lbfgs takes minutes.
    "ridge": Ridge(),
    "mocov1": _MOCO,
    "mocov2": _MOCO,
    "mocov3-resnet50": _MOCOV3_RESNET50,
    "mocov3-vit": replace(_MOCOV3_RESNET50, lr=3),
    # Chen and He, arXiv:2011.10566, appendix A. Unlike upstream: its LARS, apex's, scales the
    # bias's gradient, too.
    "simsiam": Sgd(epochs=90, batch_total=4096, schedule="cosine", optimizer="lars", lr=0.02),
    "swav": _SWAV,
    # facebookresearch/vicreg, evaluate.py.
    "vicreg": replace(_SWAV, lr=0.02),
    # facebookresearch/vissl, eval_resnet_8gpu_transfer_in1k_linear.yaml (Goyal et al.,
    # arXiv:1905.01235). Unlike upstream: the pooled feature, where VISSL flattens 2 x 2 of each
    # channel, and a BatchNorm without parameters, where VISSL's has some.
    "vissl": Sgd(
        epochs=28,
        batch_total=256,
        schedule="drops",
        lr=0.01,
        lr_drops=(8, 16, 24),
        weight_decay=5e-4,
        nesterov=True,
        batch_norm=True,
    ),
    # facebookresearch/mae, main_linprobe.py (He et al., arXiv:2111.06377, appendix A.1). Unlike
    # upstream: BatchNorm's statistics are the whole batch's, not those of each GPU's 512 images.
    "mae": Sgd(
        epochs=90,
        batch_total=16384,
        schedule="cosine-by-step",
        warmup_epochs=10,
        optimizer="lars",
        lr=0.1,
        batch_norm=True,
        drop_last=True,
    ),
    # This project's own, for the embedded digits: digits are not mirrored, and hardly cropped.
    "sgd-digits": Sgd(
        epochs=60,
        batch_total=128,
        schedule="cosine",
        lr=1.0,
        crop_scale=(0.7, 1.0),
        flip=False,
        batch_norm=True,
    ),
    # This project's own, after DINOv2's (arXiv:2304.07193, appendix B.3): 40 heads.
    "grid": _GRID,
    # DINOv2's rates and inputs. Unlike upstream: an epoch is all images and not 1,250 batches,
    # which on ImageNet is one batch more or less; and the head is not chosen on the test set.
    "grid-dinov2": Grid(
        epochs=10,
        batch_total=1024,
        schedule="cosine-by-step",
        lrs=_DINOV2_LRS,
        features=("cls", "cls+mean", "last4"),
        drop_last=True,
    ),
    # This project's own, for the embedded digits: 40 heads.
    "grid-digits": replace(
        _GRID, epochs=30, batch_total=128, crop_scale=(0.7, 1.0), flip=False, drop_last=False
    ),
}
DEFAULT_RECIPE = "lbfgs"

_OWN = "No published number; this project's own are in results/."

PUBLISHED = {
    "lbfgs-45": "SimCLR, ResNet-50 (4x), CIFAR-10: top-1 95.3, Food-101: 76.9 (arXiv:2002.05709, "
    "table 8).",
    "lbfgs": _OWN,
    "ridge": _OWN,
    "mocov1": "MoCo v1, 200 epochs, ResNet-50 on ImageNet: top-1 60.6 (arXiv:1911.05722, table 1; "
    "60.8 ± 0.2 over 5 runs in its repository).",
    "mocov2": "MoCo v2, 200 epochs, ResNet-50 on ImageNet: top-1 67.5, after 800 epochs 71.1 "
    "(arXiv:2003.04297, table 1).",
    "mocov3-resnet50": "MoCo v3, 1000 epochs, ResNet-50 on ImageNet: top-1 74.6, after 300 epochs "
    "72.8, after 100 68.9 (facebookresearch/moco-v3).",
    "mocov3-vit": "MoCo v3, 300 epochs on ImageNet: top-1 73.2 (ViT-S/16), 76.7 (ViT-B/16) "
    "(facebookresearch/moco-v3).",
    "simsiam": "SimSiam, 100 epochs, ResNet-50 on ImageNet: top-1 68.1, after 800 epochs 71.3 "
    "(arXiv:2011.10566, table 4).",
    "swav": "SwAV, 800 epochs with multi-crop, ResNet-50 on ImageNet: top-1 75.3 "
    "(arXiv:2105.04906, table 1).",
    "vicreg": "VICReg, 1000 epochs, ResNet-50 on ImageNet: top-1 73.2 (arXiv:2105.04906, table 1).",
    "vissl": "MoCo v2, 200 epochs, ResNet-50 on ImageNet: top-1 66.4 (facebookresearch/vissl, "
    "MODEL_ZOO.md), of a larger feature than this recipe's.",
    "mae": "MAE, 1600 epochs, ViT-B/16 on ImageNet: top-1 67.8 (facebookresearch/mae, "
    "FINETUNE.md).",
    "sgd-digits": _OWN,
    "grid": _OWN,
    "grid-dinov2": "DINOv2, ViT-S/14 (distilled) on ImageNet: top-1 81.1, ViT-B/14 84.5 "
    "(facebookresearch/dinov2), of a grid that has a fourth input.",
    "grid-digits": _OWN,
}


def evaluate(
    encoder: Encoder,
    recipe: Recipe,
    data: ImageData | MultiLabelData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Train the probe and return its accuracy, what was chosen, and the feature norm.

    Raises:
        DataError: If images show several classes and the recipe can only tell one.
        DivergedError: If the probe has learnt nothing.
    """
    if isinstance(recipe, Lbfgs):
        return lbfgs.evaluate(encoder, recipe, data, seed=seed, resources=resources)
    if isinstance(data, MultiLabelData):
        raise DataError(
            f"{data.id} has images that show several classes, and linear-{recipe.variant} tells "
            "one. Take --recipe lbfgs-45, or the protocol svm."
        )
    if isinstance(recipe, Ridge):
        return ridge.evaluate(encoder, recipe, data, seed=seed, resources=resources)
    return train.evaluate(encoder, recipe, data, seed=seed, resources=resources)
