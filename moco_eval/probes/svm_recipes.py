"""The numbers of linear SVMs on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from moco_eval.encoders.networks.pooling import POOLED, require_kind
from moco_eval.errors import UsageError
from moco_eval.features import Precision

VISSL_COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
OPENSELFSUP_COSTS = (*sorted(0.5**power for power in range(4, 20)), 1.0, 10.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of the full protocol.

    Attributes:
        costs: The C that are tried, ascending; of equally good ones the first is taken.
        num_folds: Into how many parts the training set is cut to choose among them.
        positive_weight: How many negatives a positive counts for.
        dual: Whether liblinear descends in the dual problem, as VISSL has it, or solves the primal
            one: the same optimum, but ``max_iter`` stops the dual short of it where C is large.
        max_iter: Passes of a fit over its images.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``.
        precision: What the network computes features in.
    """

    costs: tuple[float, ...] = VISSL_COSTS
    num_folds: int = 3
    positive_weight: float = 2.0
    dual: bool = True
    max_iter: int = 2000
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_kind(self.feature)
        _require_costs(self.costs)
        if self.num_folds < 2 or self.positive_weight <= 0 or self.max_iter < 1:
            raise UsageError(
                "num_folds must be at least 2, positive_weight above 0 and max_iter at least 1, "
                f"found {self.num_folds}, {self.positive_weight} and {self.max_iter}."
            )


@dataclass(frozen=True, kw_only=True)
class LowShotRecipe:
    """The numbers of the low-shot protocol.

    Attributes:
        shots: Positives of each class, one run for each number; the greatest counts. Those of
            which a class has not enough are left out, and the record says so.
        num_draws: How often they are drawn anew.
        c: The C that counts, one of ``costs``.
        costs: As in ``Recipe``; the best on the test set is reported as such.
        positive_weight: As in ``Recipe``.
        dual: As in ``Recipe``.
        max_iter: As in ``Recipe``.
        feature: As in ``Recipe``.
        precision: As in ``Recipe``.
    """

    variant: ClassVar[str] = "lowshot"

    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    num_draws: int = 5
    c: float = 1.0
    costs: tuple[float, ...] = VISSL_COSTS
    positive_weight: float = 2.0
    dual: bool = True
    max_iter: int = 2000
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_kind(self.feature)
        _require_costs(self.costs)
        if not self.shots or min(self.shots) < 1 or self.num_draws < 1:
            raise UsageError(
                f"shots and num_draws must be positive, found {self.shots} and {self.num_draws}."
            )
        if self.c not in self.costs:
            raise UsageError(f"c = {self.c} is none of the costs {self.costs}.")


AnyRecipe = Recipe | LowShotRecipe


def _require_costs(costs: Sequence[float]) -> None:
    if not costs or min(costs) <= 0 or list(costs) != sorted(costs):
        raise UsageError(f"costs must be positive and ascending, found {costs}.")
