"""What a published pretraining run was, in numbers: an instance of one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from moco_eval.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of one pretraining run.

    Attributes:
        method: ``moco``, or ``supervised`` for the baseline that sees the labels.
        arch: The encoder, as ``moco_eval.encoders.networks`` names it.
        views: The augmentation, as ``pretrain.views`` names it.
        image_size: Side of a view, in pixels.
        epochs: Passes over the images.
        batch_total: Images a step, over all ranks.
        lr: Learning rate at ``batch_total``, before the schedule.
        schedule: ``cosine``, or ``step``: a tenth at each of ``lr_drops``.
        lr_drops: Epochs at which the step schedule drops.
        warmup_epochs: Epochs over which the rate first rises linearly.
        weight_decay: Of all parameters, BatchNorm's and biases included, as upstream.
        sgd_momentum: Of the optimizer.
        dim: Dimension of query and key.
        queue_size: K, the number of keys that a query is held against.
        key_momentum: m, with which the key encoder follows the query encoder.
        temperature: Of the contrastive softmax.
        mlp: Whether the projector has a hidden layer (v2) or is one linear layer (v1).
        virtual_ranks: Groups that a batch is cut into, each with its own BatchNorm statistics, as
            that many GPUs would have. Shuffling BN needs at least two.
    """

    method: Literal["moco", "supervised"] = "moco"
    arch: str = "resnet50"
    views: Literal["mocov1", "mocov2", "digits"]
    image_size: int = 224
    epochs: int = 200
    batch_total: int = 256
    lr: float = 0.03
    schedule: Literal["cosine", "step"]
    lr_drops: tuple[int, ...] = ()
    warmup_epochs: int = 0
    weight_decay: float = 1e-4
    sgd_momentum: float = 0.9
    dim: int = 128
    queue_size: int = 65536
    key_momentum: float = 0.999
    temperature: float = 0.07
    mlp: bool = False
    virtual_ranks: int = 8

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_total", "dim", "queue_size", "virtual_ranks"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.batch_total % self.virtual_ranks:
            raise UsageError(
                f"batch_total = {self.batch_total} cannot be cut into virtual_ranks = "
                f"{self.virtual_ranks} equal groups."
            )
        if self.method == "moco" and self.queue_size % self.batch_total:
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


_MOCOV2 = Recipe(views="mocov2", schedule="cosine", mlp=True, temperature=0.2)

_MOCOV2_DIGITS = Recipe(
    arch="resnet10_small",
    views="digits",
    image_size=32,
    epochs=20,
    batch_total=64,
    lr=0.06,
    schedule="cosine",
    warmup_epochs=2,
    weight_decay=5e-4,
    queue_size=1024,
    key_momentum=0.99,
    temperature=0.2,
    mlp=True,
    virtual_ranks=2,
)

RECIPES = {
    # MoCo v1: He et al., arXiv:1911.05722, section 3.3 and A.2; upstream main_moco.py's defaults.
    # Published: ImageNet linear top1 60.6 (60.8 ± 0.2 over 5 runs of the repository), 53 hours on
    # 8 V100.
    "mocov1": Recipe(views="mocov1", schedule="step", lr_drops=(120, 160)),
    # MoCo v2: Chen et al., arXiv:2003.04297; upstream --mlp --moco-t 0.2 --aug-plus --cos.
    # Published: ImageNet linear top1 67.5 ± 0.1 (5 runs), VOC07+12 C4 AP 57.0.
    "mocov2": _MOCOV2,
    # The same for 800 epochs. Published: ImageNet linear top1 71.1, VOC07+12 C4 AP 57.4.
    "mocov2-800": replace(_MOCOV2, epochs=800),
    # MoCo v2 on the embedded digits, a minute on two cores: this project's own. Its numbers are
    # in results/.
    "mocov2-digits": _MOCOV2_DIGITS,
    # The baseline that sees the labels of the same digits, under the same schedule and views.
    "supervised-digits": replace(_MOCOV2_DIGITS, method="supervised", virtual_ranks=1),
}
