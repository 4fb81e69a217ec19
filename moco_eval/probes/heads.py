"""Many linear heads on one input, trained at once: their cost is that of two multiplications.

The gradient of a linear head's cross-entropy has a closed form, so that neither autograd nor a
loop over heads is needed. What a head becomes depends on no other head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from moco_eval.data.sampler import keyed_generator

# MoCo's and its followers'.
INIT_STD = 0.01

# MAE's parameter-free BatchNorm: facebookresearch/mae, main_linprobe.py.
NORM_EPS = 1e-6
NORM_MOMENTUM = 0.1

# Length of a step of LARS at learning rate 1, relative to the weights': as in moco_eval/optim.py.
TRUST = 0.001

# Scores are computed for so many numbers at a time: 256 MiB.
_CHUNK = 2**26


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What tells one head from another.

    Attributes:
        lr: The learning rate, with the batch's size in it.
        weight_decay: Share of weights and bias that is added to their gradient.
        feature: The kind of feature that the head sees.
        batch_norm: Whether it sees it through a BatchNorm without parameters.
    """

    lr: float
    weight_decay: float
    feature: str
    batch_norm: bool


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How heads follow their gradients.

    Attributes:
        optimizer: ``sgd`` as torch's, or ``lars`` as ``moco_eval/optim.py``'s.
        sgd_momentum: Share of the last step that is kept.
        nesterov: Whether to look ahead; of ``sgd`` alone.
    """

    optimizer: Literal["sgd", "lars"] = "sgd"
    sgd_momentum: float = 0.9
    nesterov: bool = False


@dataclass
class Tally:
    """How each head did on images that it was trained on, just before it was: each ``(H,)``.

    Attributes:
        loss: Summed cross-entropy.
        hits: Images whose class had the highest score.
        seen: Images.
    """

    loss: Tensor
    hits: Tensor
    seen: Tensor


class Heads:
    """Linear heads that see the same kind of feature, normalised for all or for none.

    Args:
        settings: One head each; of one ``feature`` and ``batch_norm``.
        dim: Of the feature.
        num_classes: Of each head.
        descent: How they are trained.
        seed: Decides the initial weights, which are the same for all of them.
        device: Where they are trained.
    """

    def __init__(
        self,
        settings: Sequence[Setting],
        dim: int,
        num_classes: int,
        *,
        descent: Descent,
        seed: int,
        device: torch.device,
    ) -> None:
        kinds = {(setting.feature, setting.batch_norm) for setting in settings}
        assert len(kinds) == 1, f"heads of several inputs at once: {kinds}"
        self.feature, self.batch_norm = kinds.pop()
        self.settings = tuple(settings)
        self.descent = descent
        # A key of four parts, as no image's draw has.
        generator = keyed_generator(seed, 0, 0, 0)
        first = INIT_STD * torch.randn(num_classes, dim, generator=generator)
        self.weight = first.to(device).repeat(len(settings), 1, 1)
        self.bias = torch.zeros(len(settings), num_classes, device=device)
        self.velocities = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.running_mean = torch.zeros(dim, device=device)
        self.running_var = torch.ones(dim, device=device)
        self.lr = torch.tensor([setting.lr for setting in settings], device=device)
        self.weight_decay = torch.tensor([s.weight_decay for s in settings], device=device)
        self.clear()

    def clear(self) -> None:
        """Begin a new tally."""
        zeros = torch.zeros(len(self.settings), dtype=torch.float64, device=self.bias.device)
        self.tally = Tally(zeros, zeros.clone(), zeros.clone())

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, shares: Tensor, lr_factor: float) -> None:
        """Train every head on one batch.

        Args:
            features: ``(B, D)``.
            labels: ``(B,)``.
            shares: ``(B, H)``: an image's weight in a head's loss, such as 1 / B, or 0.
            lr_factor: What the schedule makes of every learning rate.
        """
        inputs = self._normalised(features, training=True)
        log_p = self._scores(inputs).log_softmax(-1)
        rows = torch.arange(len(labels), device=labels.device)
        counted = shares > 0
        losses = -log_p[rows, :, labels]
        hits = log_p.argmax(-1) == labels[:, None]
        self.tally.loss += torch.where(counted, losses, 0).sum(0)
        self.tally.hits += (hits & counted).sum(0)
        self.tally.seen += counted.sum(0)

        # The gradient with respect to the scores: what the head says less what is true.
        by_score = log_p.exp_()
        by_score[rows, :, labels] -= 1
        by_score *= shares[:, :, None]
        by_weight = (by_score.flatten(1).T @ inputs).view_as(self.weight)
        self._descend(by_weight, by_score.sum(0), lr_factor)

    @torch.no_grad()
    def logits(self, features: Tensor, head: int) -> Tensor:
        """One head's scores ``(M, num_classes)`` of features ``(M, D)``, as at test time."""
        inputs = self._normalised(features.to(self.bias.device), training=False)
        return F.linear(inputs, self.weight[head], self.bias[head])

    @torch.no_grad()
    def judge(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Top-1 in percent and mean cross-entropy of every head, each ``(H,)`` on the CPU.

        A head whose scores are not finite has a top-1 of nan.
        """
        device = self.bias.device
        hits, losses = torch.zeros(2, len(self.settings), dtype=torch.float64, device=device)
        chunk = max(1, _CHUNK // self.bias.numel())
        for start in range(0, len(labels), chunk):
            part = features[start : start + chunk].to(device)
            truth = labels[start : start + chunk].to(device)
            log_p = self._scores(self._normalised(part, training=False)).log_softmax(-1)
            losses -= log_p[torch.arange(len(truth), device=device), :, truth].double().sum(0)
            hits += (log_p.argmax(-1) == truth[:, None]).sum(0)
        top1 = torch.where(losses.isfinite(), 100 * hits / len(labels), torch.nan)
        return top1.cpu(), (losses / len(labels)).cpu()

    def _scores(self, inputs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, H, num_classes)``."""
        scores = F.linear(inputs, self.weight.flatten(0, 1), self.bias.flatten())
        return scores.view(len(inputs), *self.bias.shape)

    def _normalised(self, features: Tensor, *, training: bool) -> Tensor:
        if not self.batch_norm:
            return features
        return F.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            # A batch of one image, such as an epoch's last, has no variance.
            training=training and len(features) > 1,
            momentum=NORM_MOMENTUM,
            eps=NORM_EPS,
        )

    def _descend(self, by_weight: Tensor, by_bias: Tensor, lr_factor: float) -> None:
        decay, lr = self.weight_decay[:, None], (lr_factor * self.lr)[:, None]
        by_weight.addcmul_(decay[:, :, None], self.weight)
        if self.descent.optimizer == "lars":
            # Biases are neither decayed nor scaled.
            by_weight *= _trust(self.weight, by_weight)[:, None, None]
        else:
            by_bias = by_bias.addcmul(decay, self.bias)
        self._follow(self.weight, by_weight, self.velocities[0], lr[:, :, None])
        self._follow(self.bias, by_bias, self.velocities[1], lr)

    def _follow(self, parameter: Tensor, gradient: Tensor, velocity: Tensor, lr: Tensor) -> None:
        momentum = self.descent.sgd_momentum
        velocity.mul_(momentum).add_(gradient)
        if self.descent.nesterov and self.descent.optimizer == "sgd":
            parameter.addcmul_(lr, gradient.add_(velocity, alpha=momentum), value=-1)
        else:
            parameter.addcmul_(lr, velocity, value=-1)


def _trust(weights: Tensor, gradients: Tensor) -> Tensor:
    """Of each head ``(H,)``, how long LARS lets its step be, relative to the gradient."""
    norms, gradient_norms = weights.flatten(1).norm(dim=1), gradients.flatten(1).norm(dim=1)
    # Where either is 0 there is no proportion to keep.
    kept = (norms > 0) & (gradient_norms > 0)
    return torch.where(kept, TRUST * norms / gradient_norms, 1.0)
