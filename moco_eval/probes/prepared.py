"""What both probes without a learning rate begin with: features on the device, scaled, cut up."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from moco_eval import distributed
from moco_eval.data.selection import selection_slice
from moco_eval.data.splits import ImageData, MultiLabelData
from moco_eval.encoders.encoder import Encoder
from moco_eval.features import Features, of_data
from moco_eval.logistic import Scaling
from moco_eval.probes.recipes import Lbfgs, Ridge
from moco_eval.resources import Resources


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Features and labels of a data set, as a solver takes them.

    Attributes:
        features: As they came, on the CPU.
        train: ``(N, D)``, on the encoder's device; in double precision where scaled.
        labels: Of ``train``, there.
        test: ``(M, D)``, there.
        norm: The training features' mean length, before they were scaled.
        kept: Which of ``train`` to fit on while something is chosen, ``(N - H,)``.
        held: Which of them to choose on ``(H,)``.
    """

    features: Features
    train: Tensor
    labels: Tensor
    test: Tensor
    norm: float
    kept: Tensor
    held: Tensor


def prepare(
    encoder: Encoder,
    recipe: Lbfgs | Ridge,
    data: ImageData | MultiLabelData,
    *,
    seed: int,
    resources: Resources,
) -> Prepared:
    """Compute or find the features, and say how long they are."""
    features = of_data(
        encoder, data, feature=recipe.feature, precision=recipe.precision, resources=resources
    )
    # In double precision on the encoder's device: a GPU solves ImageNet's in minutes.
    device = encoder.device
    train, test = features.train.to(device), features.test.to(device)
    norm = train.norm(dim=1).mean().item()
    if distributed.rank() == 0:
        print(f"No learning rate, mean feature norm {norm:.3g}.", flush=True)
    if recipe.scaled:
        scaling = Scaling.fit(train)
        train, test = scaling(train), scaling(test)
    kept, held = selection_slice(data, share=recipe.holdout, seed=seed)
    return Prepared(
        features=features,
        train=train,
        labels=features.train_labels.to(device),
        test=test,
        norm=norm,
        kept=kept.to(device),
        held=held.to(device),
    )
