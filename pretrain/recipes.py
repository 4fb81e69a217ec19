"""What a published pretraining run was, in numbers: an instance of one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from moco_eval.errors import UsageError
from moco_eval.recipes import as_dict


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of one pretraining run.

    Attributes:
        source: Where they are written down.
        published: What was reported of the encoder, and what the run cost.
        method: ``moco`` (v1 and v2), ``mocov3``, or ``supervised`` for the baseline that sees the
            labels.
        mechanism: Where MoCo's negatives come from: its ``queue``, or one of the two mechanisms
            that its paper compares, ``memory-bank`` and ``end-to-end``.
        arch: The encoder, as ``moco_eval.encoders.networks`` names it.
        views: The augmentation, as ``pretrain.views`` names it.
        view_engine: Who draws the views: ``reference`` as upstream, ``fast`` or ``device``, which
            differ from it by less than 2 of 255.
        image_size: Side of a view, in pixels.
        in_chans: 3 for colour, 1 for luminance.
        epochs: Passes over the images.
        batch_total: Images a step, over all ranks.
        lr: Learning rate for 256 images a step; ``peak_lr`` is what the batch makes of it.
        schedule: ``cosine`` by the epoch; ``cosine-by-step``, which begins after the warm-up; or
            ``drops``: a tenth at each of ``lr_drops``.
        lr_drops: Epochs at which the rate drops.
        warmup_epochs: Epochs over which the rate first rises linearly.
        optimizer: ``sgd``, ``lars`` or ``adamw``.
        weight_decay: Of all parameters, BatchNorm's and biases included, as upstream; LARS leaves
            those out.
        sgd_momentum: Of SGD and LARS.
        dim: Dimension of query and key.
        mlp: Whether MoCo's projector has a hidden layer (v2) or is one linear layer (v1).
        mlp_dim: Width of v3's hidden layers.
        num_projector_layers: Of v3: 2 for a ResNet, 3 for a ViT.
        queue_size: K, the number of keys of the queue, or negatives drawn from the memory bank.
        key_momentum: m, with which the key encoder follows the query encoder, at the start.
        key_momentum_schedule: ``constant``, or ``cosine``: rising to 1.
        temperature: Of the contrastive softmax.
        num_ranks: Ranks that normalise apart and shuffle their keys, as that many GPUs would. The
            processes of a run share them out, so that their number changes no result. Shuffling
            BN needs at least two. v3 synchronises its BatchNorm and has no use for them.
        precision: ``fp32``, ``bf16`` or ``fp16``, in which encoders compute; the contrast is
            computed in fp32.
    """

    source: str
    published: str
    method: Literal["moco", "mocov3", "supervised"] = "moco"
    mechanism: Literal["queue", "memory-bank", "end-to-end"] = "queue"
    arch: str = "resnet50"
    views: Literal["mocov1", "mocov2", "mocov3", "mocov3-resnet", "cifar10", "digits"]
    view_engine: Literal["reference", "fast", "device"] = "reference"
    image_size: int = 224
    in_chans: Literal[1, 3] = 3
    epochs: int = 200
    batch_total: int = 256
    lr: float = 0.03
    schedule: Literal["cosine", "cosine-by-step", "drops"] = "cosine"
    lr_drops: tuple[int, ...] = ()
    warmup_epochs: int = 0
    optimizer: Literal["sgd", "lars", "adamw"] = "sgd"
    weight_decay: float = 1e-4
    sgd_momentum: float = 0.9
    dim: int = 128
    mlp: bool = False
    mlp_dim: int = 4096
    num_projector_layers: int = 2
    queue_size: int = 65536
    key_momentum: float = 0.999
    key_momentum_schedule: Literal["constant", "cosine"] = "constant"
    temperature: float = 0.07
    num_ranks: int = 8
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    @property
    def peak_lr(self) -> float:
        """The learning rate by the linear scaling rule (Goyal et al., arXiv:1706.02677)."""
        return self.lr * self.batch_total / 256

    @property
    def scaling_rule(self) -> str:
        """How ``peak_lr`` comes about, for people: ``0.03 x 512/256 = 0.06``."""
        return f"{self.lr:g} x {self.batch_total}/256 = {self.peak_lr:g}"

    @property
    def num_negatives(self) -> int:
        """Keys that a query is held against beside its own; chance is ``ln(1 + this)``."""
        in_batch = self.method == "mocov3" or self.mechanism == "end-to-end"
        return self.batch_total - 1 if in_batch else self.queue_size

    @property
    def num_views(self) -> int:
        """Views of an image that a step takes."""
        single = self.method == "supervised" or self.mechanism == "memory-bank"
        return 1 if single else 2

    def virtual_ranks(self, num_processes: int) -> int:
        """How many of the run's ranks each of ``num_processes`` carries.

        Raises:
            UsageError: If they, or the batch where nothing normalises apart, cannot be shared out.
        """
        name = "num_ranks" if self.method == "moco" else "batch_total"
        shared = self.num_ranks if self.method == "moco" else self.batch_total
        if shared % num_processes:
            raise UsageError(
                f"{name} = {shared} cannot be shared out equally among {num_processes} processes. "
                f"Take a number of processes that divides it, or: --set {name}=..."
            )
        return self.num_ranks // num_processes

    def numbers(self) -> dict[str, Any]:
        """What decides a run: everything but where it comes from and what it reached."""
        described = ("source", "published")
        return {key: value for key, value in as_dict(self).items() if key not in described}

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_total", "dim", "mlp_dim"):
            _require_positive(name, getattr(self, name))
        for name in ("queue_size", "num_ranks", "num_projector_layers"):
            _require_positive(name, getattr(self, name))
        if self.batch_total % self.num_ranks:
            raise UsageError(
                f"batch_total = {self.batch_total} cannot be cut into num_ranks = "
                f"{self.num_ranks} equal groups."
            )
        has_queue = self.method == "moco" and self.mechanism == "queue"
        if has_queue and self.queue_size % self.batch_total:
            below = max(self.batch_total, self.queue_size // self.batch_total * self.batch_total)
            raise UsageError(
                f"queue_size = {self.queue_size} is not divisible by batch_total = "
                f"{self.batch_total}: a step would write past the queue's end. The nearest that "
                f"is: --set queue_size={below}"
            )
        if not 0 <= self.key_momentum <= 1 or self.temperature <= 0 or self.lr < 0:
            raise UsageError(
                "key_momentum must lie in [0, 1], temperature above 0 and lr at or above 0, found "
                f"{self.key_momentum}, {self.temperature} and {self.lr}."
            )
        if self.mechanism != "queue" and self.method != "moco":
            raise UsageError(
                f"mechanism={self.mechanism} is for MoCo v1 and v2, not {self.method}."
            )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name} must be at least 1, found {value}.")


_MOCOV2 = Recipe(
    source="Chen et al., arXiv:2003.04297; facebookresearch/moco --mlp --moco-t 0.2 --aug-plus "
    "--cos",
    published="ImageNet linear top1 67.5 ± 0.1 (5 runs), VOC07+12 C4 AP 57.0; 53 h on 8 V100",
    views="mocov2",
    mlp=True,
    temperature=0.2,
)

_MOCOV3_RESNET50 = Recipe(
    source="Chen, Xie and He, arXiv:2104.02057; facebookresearch/moco-v3 CONFIG.md",
    published="ImageNet linear top1 68.9; 16 V100",
    method="mocov3",
    views="mocov3-resnet",
    epochs=100,
    batch_total=4096,
    lr=0.6,
    schedule="cosine-by-step",
    warmup_epochs=10,
    optimizer="lars",
    weight_decay=1e-6,
    dim=256,
    key_momentum=0.99,
    key_momentum_schedule="cosine",
    temperature=1.0,
    num_ranks=1,
    precision="fp16",
)

_MOCOV3_VIT_SMALL = replace(
    _MOCOV3_RESNET50,
    published="ImageNet linear top1 73.2, fine-tuned 81.4; 32 V100",
    arch="vit_small_mocov3",
    views="mocov3",
    epochs=300,
    lr=1.5e-4,
    warmup_epochs=40,
    optimizer="adamw",
    weight_decay=0.1,
    num_projector_layers=3,
    temperature=0.2,
)

_MOCOV2_DIGITS = Recipe(
    source="this project's own, on the embedded digits",
    published="results/tables; about a minute on two CPU cores",
    arch="resnet10_small",
    views="digits",
    image_size=32,
    epochs=20,
    batch_total=64,
    lr=0.24,
    warmup_epochs=2,
    weight_decay=5e-4,
    queue_size=1024,
    key_momentum=0.99,
    temperature=0.2,
    mlp=True,
    num_ranks=2,
)

RECIPES = {
    "mocov1": Recipe(
        source="He et al., arXiv:1911.05722, section 3.3; facebookresearch/moco main_moco.py",
        published="ImageNet linear top1 60.6 (repository: 60.8 ± 0.2, 5 runs), VOC07+12 C4 AP "
        "55.9; 53 h on 8 V100",
        views="mocov1",
        schedule="drops",
        lr_drops=(120, 160),
    ),
    "mocov2": _MOCOV2,
    "mocov2-800": replace(
        _MOCOV2,
        published="ImageNet linear top1 71.1, VOC07+12 C4 AP 57.4; four times the cost",
        epochs=800,
    ),
    "mocov3-resnet50": _MOCOV3_RESNET50,
    "mocov3-resnet50-300": replace(
        _MOCOV3_RESNET50, published="ImageNet linear top1 72.8; 16 V100", epochs=300, lr=0.3
    ),
    "mocov3-resnet50-1000": replace(
        _MOCOV3_RESNET50,
        published="ImageNet linear top1 74.6; 16 V100",
        epochs=1000,
        lr=0.3,
        weight_decay=1.5e-6,
        key_momentum=0.996,
    ),
    "mocov3-vit-small": _MOCOV3_VIT_SMALL,
    "mocov3-vit-base": replace(
        _MOCOV3_VIT_SMALL,
        published="ImageNet linear top1 76.7, fine-tuned 83.2; 64 V100",
        arch="vit_base_mocov3",
    ),
    # The authors' notebook; its encoder has v1's linear projector and loses the max pooling.
    "mocov2-cifar10": Recipe(
        source="facebookresearch/moco, branch colab-notebook: colab/moco_cifar10_demo.ipynb",
        published="CIFAR-10 kNN (k = 200, on the 128-d output) 82.6; 86.3 and 88.7 after 400 and "
        "800 epochs",
        arch="resnet18_cifar",
        views="cifar10",
        image_size=32,
        batch_total=512,
        weight_decay=5e-4,
        queue_size=4096,
        key_momentum=0.99,
        temperature=0.1,
    ),
    # The shorter queue and the faster key encoder suit a tenth of ImageNet's images.
    "mocov2-imagenet100": replace(
        _MOCOV2,
        source="MoCo v2's settings with the shorter queue of HobbitLong/CMC's ImageNet-100 run",
        published="no published run has exactly these settings; nearest: ImageNet-100 linear top1 "
        "73.4 (MoCo v1, ResNet-50, HobbitLong/CMC), 79.3 (MoCo v2+, ResNet-18, solo-learn)",
        queue_size=16384,
        key_momentum=0.99,
    ),
    "mocov2-digits": _MOCOV2_DIGITS,
    "mocov1-digits": replace(_MOCOV2_DIGITS, mlp=False, temperature=0.07),
    "mocov3-digits": replace(
        _MOCOV2_DIGITS,
        method="mocov3",
        schedule="cosine-by-step",
        optimizer="lars",
        lr=4.0,
        weight_decay=1e-6,
        mlp_dim=256,
        temperature=1.0,
        key_momentum_schedule="cosine",
        num_ranks=1,
    ),
    # The baseline that sees the labels of the same digits, under the same schedule and views.
    "supervised-digits": replace(_MOCOV2_DIGITS, method="supervised", num_ranks=1),
}
