"""The numbers of the four ways to a linear probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from moco_eval.encoders.networks.pooling import POOLED, require_kind
from moco_eval.errors import UsageError
from moco_eval.extraction import Precision


@dataclass(frozen=True, kw_only=True)
class Training:
    """How heads are trained on augmented images, one or many at once.

    Attributes:
        epochs: Passes over the training images.
        batch_total: Images of a step, over all ranks; the whole set where that has fewer.
        schedule: ``drops`` to a tenth, ``cosine`` (constant within an epoch), or
            ``cosine-by-step``, which may begin with a warm-up.
        lr_drops: Epochs of the drops.
        warmup_epochs: Epochs of the linear rise, for ``cosine-by-step``.
        optimizer: ``sgd``, or ``lars`` as MoCo v3's code has it.
        sgd_momentum: Share of the last step that is kept.
        nesterov: Whether ``sgd`` looks ahead.
        drop_last: Whether an epoch's incomplete last batch is left out.
        crop_scale: Least and greatest share of an image's area that the random crop takes.
        flip: Whether images are mirrored at random.
        holdout: Share of the training set that scouts do not see; 0 for no scouts.
        precision: What the encoder computes in.
    """

    epochs: int
    batch_total: int
    schedule: Literal["drops", "cosine", "cosine-by-step"]
    lr_drops: tuple[int, ...] = ()
    warmup_epochs: int = 0
    optimizer: Literal["sgd", "lars"] = "sgd"
    sgd_momentum: float = 0.9
    nesterov: bool = False
    drop_last: bool = False
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    holdout: float = 0.1
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_total < 1 or not 0 <= self.holdout < 1:
            raise UsageError(
                "epochs and batch_total must be at least 1 and holdout in [0, 1), found "
                f"{self.epochs}, {self.batch_total} and {self.holdout}."
            )
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UsageError(
                f"crop_scale must be two rising numbers in (0, 1], found {self.crop_scale}."
            )
        if self.warmup_epochs and self.schedule != "cosine-by-step":
            raise UsageError(
                f"Only the schedule cosine-by-step has a warm-up, not '{self.schedule}'. "
                "Leave it out (--set warmup_epochs=0) or take --set schedule=cosine-by-step."
            )


@dataclass(frozen=True, kw_only=True)
class Sgd(Training):
    """The papers' own procedures: one head, all numbers fixed.

    Attributes:
        lr: Learning rate for 256 images a step; n images take n / 256 times it.
        weight_decay: Share of weights and bias that is added to their gradient.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``.
        batch_norm: Whether a BatchNorm without parameters stands before the head, as MAE's.
    """

    variant: ClassVar[str] = "sgd"

    lr: float
    weight_decay: float = 0.0
    feature: str = POOLED
    batch_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_kind(self.feature)
        if self.lr <= 0:
            raise UsageError(f"lr must be positive, found {self.lr}.")


@dataclass(frozen=True, kw_only=True)
class Grid(Training):
    """Every combination of these, a head each, in one pass.

    Attributes:
        lrs: Learning rates for 256 images a step; n images take n / 256 times them.
        weight_decays: Shares of weights and bias that are added to their gradient.
        features: Which features of the network, by their names in ``encoders/networks/pooling.py``.
        batch_norms: Whether a BatchNorm without parameters stands before the head.
    """

    variant: ClassVar[str] = "grid"

    lrs: tuple[float, ...]
    weight_decays: tuple[float, ...] = (0.0,)
    features: tuple[str, ...] = (POOLED,)
    batch_norms: tuple[bool, ...] = (False,)

    def __post_init__(self) -> None:
        super().__post_init__()
        for feature in self.features:
            require_kind(feature)
        axes = (self.lrs, self.weight_decays, self.features, self.batch_norms)
        if not all(axes) or min(self.lrs) <= 0:
            raise UsageError(f"A grid needs something of each kind, and lrs above 0: {self}.")
        if self.holdout == 0:
            raise UsageError(
                "A grid chooses its head on a part of the training set: holdout must be above 0."
            )


@dataclass(frozen=True, kw_only=True)
class Lbfgs:
    """Multinomial logistic regression, solved for.

    Attributes:
        num_c: How many inverse regularisation strengths are tried, evenly spaced in the exponent.
        log10_c_min: The smallest, as a power of ten.
        log10_c_max: The largest.
        holdout: Share of the training set on which C is chosen.
        chosen_by: What is compared on that share: ``top1`` is mean AP where images show several
            classes. Cross-entropy also counts how sure a prediction was, so that it tells two C
            apart on a few hundred images where top-1 ties.
        scaled: Whether each feature is brought to mean 0 and s.d. 1 first.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``.
        precision: What the network computes features in.
    """

    variant: ClassVar[str] = "lbfgs"

    num_c: int
    log10_c_min: float
    log10_c_max: float
    holdout: float = 0.2
    chosen_by: Literal["cross_entropy", "top1"] = "cross_entropy"
    scaled: bool = True
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_kind(self.feature)
        _require_choice("num_c", self.num_c, self.holdout)


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """Least squares with the classes' indicators as targets, in closed form.

    Attributes:
        num_lambda: How many regularisation strengths are tried, evenly spaced in the exponent.
        log10_lambda_min: The smallest, as a power of ten, relative to the features' mean variance:
            lambda = N * variance * 10^x.
        log10_lambda_max: The largest.
        holdout: Share of the training set on which lambda is chosen, by top-1.
        scaled: Whether each feature is brought to mean 0 and s.d. 1 first.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``.
        precision: What the network computes features in.
    """

    variant: ClassVar[str] = "ridge"

    num_lambda: int = 25
    log10_lambda_min: float = -6
    log10_lambda_max: float = 2
    holdout: float = 0.2
    scaled: bool = True
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_kind(self.feature)
        _require_choice("num_lambda", self.num_lambda, self.holdout)


def _require_choice(name: str, number: int, holdout: float) -> None:
    if number < 1 or not 0 < holdout < 1:
        raise UsageError(
            f"{name} must be at least 1 and holdout between 0 and 1, found {number} and {holdout}."
        )
