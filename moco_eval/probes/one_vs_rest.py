"""A linear SVM for each class against all the rest, by scikit-learn, as VISSL sets it up.

Source: facebookresearch/vissl@09270ed2, vissl/utils/svm_utils/svm_trainer.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco_eval import distributed
from moco_eval.accuracy import envelope_precision
from moco_eval.data.sampler import draw_key
from moco_eval.data.splits import ABSENT, DIFFICULT, PRESENT, ImageData, MultiLabelData
from moco_eval.errors import UsageError
from moco_eval.features import Features
from moco_eval.probes.svm_recipes import AnyRecipe

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """What the SVMs see: features of length 1, and labels ``(N, C)`` as ``data/splits.py`` has."""

    classes: tuple[str, ...]
    train: Floats
    train_labels: Tensor
    test: Floats
    test_labels: Tensor

    @classmethod
    def of(cls, features: Features, data: ImageData | MultiLabelData) -> Problem:
        num_classes = len(data.classes)
        return cls(
            data.classes,
            _of_length_1(features.train),
            _by_class(features.train_labels, num_classes),
            _of_length_1(features.test),
            _by_class(features.test_labels, num_classes),
        )

    def average_precision(self, scores: Floats, number: int) -> float:
        """Of the class ``number`` on the test set, without what is difficult for it; on 0-1."""
        labels = self.test_labels[:, number]
        judged = labels != DIFFICULT
        return envelope_precision(torch.from_numpy(scores)[judged], labels[judged] == PRESENT)


@dataclass(frozen=True)
class Svm:
    """scikit-learn's linear SVM of one class, with what VISSL sets."""

    machine: Any
    is_unconverged: bool

    @classmethod
    def fit(
        cls, features: Floats, targets: NDArray[np.int64], recipe: AnyRecipe, c: float, seed: int
    ) -> Svm:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        machine = LinearSVC(
            C=c,
            penalty="l2",
            loss="squared_hinge",
            dual=recipe.dual,
            tol=1e-4,
            max_iter=recipe.max_iter,
            class_weight={1: recipe.positive_weight, -1: 1.0},
            # Unlike upstream: its order is drawn from NumPy's global generator.
            random_state=draw_key(seed) % 2**32,
        )
        with warnings.catch_warnings():
            # Counted instead: one line in the record, not one warning a fit.
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(features, targets)
        return cls(machine, bool(machine.n_iter_ >= recipe.max_iter))

    def scores(self, features: Floats) -> Floats:
        """Signed distances ``(M,)``, in units of the margin."""
        scores: Floats = self.machine.decision_function(features)
        return scores


def for_each_class(problem: Problem, work: Callable[[int], list[float]]) -> Tensor:
    """The rows ``(C, ...)`` that ``work`` returns of each class; ranks share the classes out.

    Raises:
        UsageError: If there are more ranks than classes.
    """
    num_classes = len(problem.classes)
    if distributed.world_size() > num_classes:
        raise UsageError(
            f"{distributed.world_size()} processes cannot share {num_classes} classes. Start fewer."
        )
    own = [work(n) for n in range(distributed.rank(), num_classes, distributed.world_size())]
    rows = torch.tensor(own, dtype=torch.float64, device=distributed.device())
    return distributed.gather_dealt(rows, num_classes).cpu()


def targets_of(labels: Tensor) -> NDArray[np.int64]:
    """1 for images that show the class, -1 for others: those that show it hardly among them."""
    targets: NDArray[np.int64] = np.where(labels.numpy() == PRESENT, 1, -1)
    return targets


def say_unconverged(number: int, num_fits: int, max_iter: int) -> None:
    if number and distributed.rank() == 0:
        print(
            f"{number} of {num_fits} SVMs did not converge within {max_iter} passes; VISSL's large "
            "C do not either. --set dual=false finds the optimum.",
            flush=True,
        )


def _of_length_1(features: Tensor) -> Floats:
    """Divided by their length, to which VISSL adds 1e-5; float64, as liblinear computes."""
    exact = features.double()
    unit: Floats = (exact / (exact.norm(dim=1, keepdim=True) + 1e-5)).numpy()
    return unit


def _by_class(labels: Tensor, num_classes: int) -> Tensor:
    """Labels ``(N, C)``, also of images that have one class each."""
    if labels.dim() == 2:
        return labels
    one_hot = torch.full((len(labels), num_classes), ABSENT)
    return one_hot.scatter_(1, labels[:, None], PRESENT)
