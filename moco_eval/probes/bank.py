"""All heads of a recipe, whatever they see, and which of them the held-out slice prefers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from moco_eval.chance import Fit
from moco_eval.probes.heads import Descent, Heads, Setting


@dataclass(frozen=True)
class Judged:
    """Test-time features that heads are judged on.

    Attributes:
        slice: By kind, ``(H, D)`` of the held-out slice; no row where there are no scouts.
        slice_labels: ``(H,)``.
        test: By kind, ``(M, D)`` of the test set.
        test_labels: ``(M,)``.
    """

    slice: Mapping[str, Tensor]
    slice_labels: Tensor
    test: Mapping[str, Tensor]
    test_labels: Tensor


@dataclass(frozen=True)
class Scores:
    """How heads do at one moment, each ``(number of settings,)`` on the CPU.

    Attributes:
        slice_top1: Of the scouts on the slice, in percent; nan where one has diverged.
        slice_loss: Their mean cross-entropy.
        test_top1: Of the heads that count, on the test set.
    """

    slice_top1: Tensor
    slice_loss: Tensor
    test_top1: Tensor


class Bank:
    """A head for each setting and, where asked for, its scout.

    Args:
        settings: Those of one input follow each other.
        dims: Of each kind of feature.
        num_classes: Of each head.
        descent: How they are trained.
        has_scouts: Whether each has a scout.
        seed: Decides the initial weights.
        device: Where they are trained.
    """

    def __init__(  # noqa: PLR0913 - what there is to say of a layer and of its optimizer
        self,
        settings: Sequence[Setting],
        dims: Mapping[str, int],
        num_classes: int,
        *,
        descent: Descent,
        has_scouts: bool,
        seed: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.has_scouts = has_scouts
        by_input = itertools.groupby(
            settings, lambda setting: (setting.feature, setting.batch_norm)
        )
        self.groups: list[Heads] = []
        # Where each setting's head is: its group, and its place in it.
        self.places: list[tuple[Heads, int]] = []
        for (feature, _), found in by_input:
            members = list(found)
            self.groups.append(
                Heads(
                    members * (2 if has_scouts else 1),
                    dims[feature],
                    num_classes,
                    descent=descent,
                    seed=seed,
                    device=device,
                )
            )
            self.places += [(self.groups[-1], place) for place in range(len(members))]

    def begin_epoch(self) -> None:
        """Begin new tallies."""
        for heads in self.groups:
            heads.clear()

    def step(
        self, features: Mapping[str, Tensor], labels: Tensor, kept: Tensor, lr_factor: float
    ) -> None:
        """Train every head on a batch, and every scout on those of its images that are kept.

        Args:
            features: By kind, ``(B, D)``.
            labels: ``(B,)``.
            kept: ``(B,)``, false for images of the held-out slice.
            lr_factor: What the schedule makes of every learning rate.
        """
        every = torch.full((len(labels), 1), 1 / len(labels), device=labels.device)
        some = kept[:, None] / kept.sum().clamp(min=1)
        for heads in self.groups:
            own = len(heads.settings) // (2 if self.has_scouts else 1)
            shares = [every.expand(-1, own), *([some.expand(-1, own)] if self.has_scouts else [])]
            heads.step(features[heads.feature], labels, torch.cat(shares, dim=1), lr_factor)

    def judge(self, judged: Judged) -> Scores:
        """The scouts on the slice, and the heads that count on the test set."""
        parts = []
        for heads in self.groups:
            test_top1, _ = heads.judge(judged.test[heads.feature], judged.test_labels)
            slice_top1, slice_loss = torch.full_like(test_top1, torch.nan).expand(2, -1)
            if self.has_scouts:
                slice_top1, slice_loss = heads.judge(
                    judged.slice[heads.feature], judged.slice_labels
                )
            own = len(heads.settings) // (2 if self.has_scouts else 1)
            parts.append((slice_top1[-own:], slice_loss[-own:], test_top1[:own]))
        return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def fit(self, number: int) -> Fit:
        """How a setting's head did on the images that it was trained on, in this epoch."""
        heads, place = self.places[number]
        tally = heads.tally
        seen = tally.seen[place].item()
        return Fit(loss=tally.loss[place].item() / seen, top1=100 * tally.hits[place].item() / seen)

    def rows(self, scores: Scores) -> list[dict[str, Any]]:
        """Each setting with its top-1 on the slice, for a record."""
        return [
            asdict(setting) | {"top1": top1}
            for setting, top1 in zip(self.settings, scores.slice_top1.tolist(), strict=True)
        ]


def best(top1: Sequence[float], loss: Sequence[float]) -> int:
    """The place of the greatest top-1; of equal ones, that of the least loss, then the first.

    What has diverged, with a top-1 of nan, comes last.
    """
    keys = [
        (each, -cost) if math.isfinite(each) else (-math.inf, 0.0)
        for each, cost in zip(top1, loss, strict=True)
    ]
    return keys.index(max(keys))
