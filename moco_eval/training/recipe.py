"""The numbers of a classifier's training from an encoder's weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from moco_eval import schedules
from moco_eval.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a whole network is trained, its new classifier included.

    Every pair of a learning rate and a weight decay is tried; with one pair nothing is chosen.

    Attributes:
        lr: Learning rates at the peak, for a batch of ``batch_total``.
        weight_decay: As the optimizer takes it: times the learning rate of the moment.
        batch_total: Images of an update, over all processes.
        epochs: How often each image is seen; 0 where ``num_steps`` says how long it takes.
        num_steps: Updates in all; 0 where ``epochs`` says it.
        optimizer: ``sgd`` and ``nesterov`` have momentum 0.9, ``adamw`` torch's betas.
        decay_over_lr: Whether ``weight_decay`` is divided by the learning rate at its peak.
        decay_vectors: Whether biases and norms, and what a transformer learns of positions and
            class, decay as well.
        schedule: How the learning rate falls: on half a cosine, or at ``lr_drops``.
        lr_drops: At which shares of the training it falls.
        lr_drop_factor: To which share of itself.
        warmup_epochs: Epochs in which it rises linearly.
        lr_min: Where the rise begins and the cosine ends.
        head_lr_factor: How many times the others' learning rate the new classifier's is.
        layer_decay: The learning rate of each layer, from the classifier down, as a share of the
            next one's.
        batch_norm_window: BatchNorm keeps ``max(1 - batch_norm_window / s, 0.9)`` of its statistics
            in each step, an epoch having s of them; 0 leaves the network's own share, mostly 0.9.
        drop_path: Share of the images for which the last residual branch is left out; it falls
            linearly to 0 at the first.
        label_smoothing: Share of each label that is spread over all classes.
        mixup: The beta distribution's parameter; 0 for no mixup.
        cutmix: Likewise; where there are both, each batch gets one of them.
        crop_scale: Share of an image's area that a training crop keeps, from and to.
        flip: Whether every second training crop is mirrored.
        randaugment: What distorts a training crop, in timm's words; empty for nothing.
        random_erasing: Share of the training crops from which a rectangle is erased.
        repeats: How often an image is drawn before the next one is, within a batch: an epoch then
            holds as many crops as ever, of fewer images.
        holdout: Share of the training set that pairs are compared on.
        precision: What the network computes in.
    """

    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    batch_total: int
    epochs: int = 0
    num_steps: int = 0
    optimizer: Literal["sgd", "nesterov", "adamw"] = "sgd"
    decay_over_lr: bool = False
    decay_vectors: bool = True
    schedule: Literal["cosine", "drops"] = "cosine"
    lr_drops: tuple[float, ...] = ()
    lr_drop_factor: float = 0.1
    warmup_epochs: float = 0.0
    lr_min: float = 0.0
    head_lr_factor: float = 1.0
    layer_decay: float = 1.0
    batch_norm_window: float = 0.0
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    randaugment: str = ""
    random_erasing: float = 0.0
    repeats: int = 1
    holdout: float = 0.2
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        # Lists are what JSON and the command line give.
        for name in ("lr", "weight_decay", "lr_drops", "crop_scale"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not self.lr or not self.weight_decay or min(self.lr) <= 0 or min(self.weight_decay) < 0:
            raise UsageError(
                "lr and weight_decay are one or more numbers, above 0 and from 0 on, "
                f"found {self.lr} and {self.weight_decay}."
            )
        if (self.epochs > 0) == (self.num_steps > 0) or min(self.epochs, self.num_steps) < 0:
            raise UsageError(
                f"Either epochs or num_steps is positive and the other one 0, found {self.epochs} "
                f"and {self.num_steps}."
            )
        if self.batch_total < 1 or self.repeats < 1 or not 0 < self.holdout < 1:
            raise UsageError(
                "batch_total and repeats must be at least 1 and holdout between 0 and 1, found "
                f"{self.batch_total}, {self.repeats} and {self.holdout}."
            )
        if self.head_lr_factor <= 0 or not 0 < self.lr_drop_factor <= 1:
            raise UsageError(
                "head_lr_factor must lie above 0, lr_drop_factor above 0 and up to 1, found "
                f"{self.head_lr_factor} and {self.lr_drop_factor}."
            )
        if not 0 < self.layer_decay <= 1 or not 0 <= self.drop_path < 1:
            raise UsageError(
                "layer_decay must lie above 0 and up to 1, drop_path from 0 on and below 1, found "
                f"{self.layer_decay} and {self.drop_path}."
            )

    def pairs(self) -> Iterator[Recipe]:
        """This recipe with each pair of a learning rate and a weight decay alone."""
        for lr, weight_decay in itertools.product(self.lr, self.weight_decay):
            yield dataclasses.replace(self, lr=(lr,), weight_decay=(weight_decay,))

    @property
    def is_single(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.lr) * len(self.weight_decay) == 1


@dataclass(frozen=True)
class Plan:
    """A recipe with one pair, on a number of images: what happens in which step.

    Attributes:
        recipe: With one learning rate and one weight decay.
        num_images: That are trained on.
    """

    recipe: Recipe
    num_images: int

    def __post_init__(self) -> None:
        assert self.recipe.is_single, f"{len(list(self.recipe.pairs()))} pairs, and none is chosen"

    @property
    def steps_per_epoch(self) -> float:
        """How many updates it takes to see as many crops as there are images."""
        return self.num_images / self.recipe.batch_total

    @property
    def num_steps(self) -> int:
        """Updates of the whole training, at least one."""
        asked = self.recipe.num_steps or round(self.recipe.epochs * self.steps_per_epoch)
        return max(1, asked)

    @property
    def weight_decay(self) -> float:
        """As the optimizer takes it."""
        recipe = self.recipe
        (lr,), (weight_decay,) = recipe.lr, recipe.weight_decay
        return weight_decay / lr if recipe.decay_over_lr else weight_decay

    @property
    def batch_norm_momentum(self) -> float | None:
        """Share of a batch's statistics that BatchNorm takes over, as torch counts it."""
        window = self.recipe.batch_norm_window
        return min(window / self.steps_per_epoch, 0.1) if window else None

    def lr(self, step: int) -> float:
        """The learning rate of a step, in layers without decay."""
        recipe, num_steps = self.recipe, self.num_steps
        warmup = min(recipe.warmup_epochs * self.steps_per_epoch, num_steps)
        if recipe.schedule == "cosine":
            factor = schedules.warm_up_then_cosine(step, warmup, num_steps)
        else:
            drops = [round(share * num_steps) for share in recipe.lr_drops]
            rise = step / warmup if step < warmup else 1.0
            factor = rise * schedules.step_drops(step, drops, recipe.lr_drop_factor)
        return recipe.lr_min + (recipe.lr[0] - recipe.lr_min) * factor
