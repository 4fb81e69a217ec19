"""One fine-tuning after the other, each from the encoder to logits, and each done once."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from moco_eval import distributed, recipes
from moco_eval.data.splits import ImageData, Split
from moco_eval.encoders.encoder import Encoder
from moco_eval.errors import DivergedError
from moco_eval.files import atomic_file
from moco_eval.resources import Resources
from moco_eval.training.classifier import Classifier, device_of
from moco_eval.training.crops import TrainingCrops
from moco_eval.training.loop import ADVICE, Job, fit, predict
from moco_eval.training.recipe import Plan, Recipe

FOLDER = "finetune"
LOGITS = "logits.safetensors"
# On how many of its training images it is seen whether a network has learnt anything.
NUM_LOOKED_AT = 2048
# Cross-entropy, in times the labels' entropy, that only a network which is sure of wrong answers
# has; and the share of it that one has which says no more than how frequent each class is.
DIVERGED, NOTHING = 10.0, 0.98


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all trainings of a run share.

    Attributes:
        protocol: With its version: another one's logits are not taken for this one's.
        encoder: That each begins with, and which stays as it is.
        data: Its classes are the classifier's.
        seed: Decides every draw.
        work_dir: Where the run leaves what is no result.
        resources: What they may use of the machine.
    """

    protocol: str
    encoder: Encoder
    data: ImageData
    seed: int
    work_dir: Path
    resources: Resources


def logits_of(run: Run, recipe: Recipe, indices: Tensor, judges: Split | None = None) -> Tensor:
    """Train a copy of the encoder, and return its logits for other images.

    Where that was done before, by a part of the run that was stopped later, they are read.

    Args:
        run: Whose training it is.
        recipe: With one pair of a learning rate and a weight decay.
        indices: Of the training images ``(N,)`` to train on.
        judges: The other images; the test set if left out, and then what is no better than chance
            is refused.

    Returns:
        ``(M, C)``, on the CPU, on every rank.

    Raises:
        UsageError: If the recipe does not fit the network or the number of processes.
        DivergedError: If loss, gradient or logits are not finite, or say nothing.
        PreemptedError: If the process was asked to stop; the same call continues.
    """
    encoder, others = run.encoder, judges or run.data.test
    identity = _identity(run, recipe, indices, others)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    name = f"lr{recipe.lr[0]:.3g}-wd{recipe.weight_decay[0]:.3g}"
    folder = run.work_dir / FOLDER / f"{name}-{digest[:12]}"
    path, device = folder / LOGITS, device_of(encoder)
    is_done = torch.tensor([int(path.exists())], device=device)
    if int(distributed.broadcast(is_done)):
        return load_file(path)["logits"]

    model = Classifier(encoder, len(run.data.classes), seed=run.seed)
    images = taken(run.data.train, indices)
    crops = TrainingCrops(images.images, images.labels, encoder.input, recipe, seed=run.seed)
    job = Job(
        name=f"fine-tuning on {len(images)} images, {name}",
        folder=folder,
        arch=encoder.arch,
        run=identity,
        seed=run.seed,
        num_workers=run.resources.num_workers,
    )
    fit(model, Plan(recipe, len(images)), crops, job)

    def predicted(split: Split) -> Tensor:
        return predict(
            model,
            split.images,
            encoder.input,
            precision=recipe.precision,
            num_workers=run.resources.num_workers,
        )

    if judges is None:
        step = max(1, math.ceil(len(images) / NUM_LOOKED_AT))
        seen = taken(run.data.train, indices[::step])
        _require_learnt(predicted(seen), torch.tensor(seen.labels))
    logits = predicted(others)
    if distributed.rank() == 0:
        with atomic_file(path) as file:
            file.write(save({"logits": logits}))
        # The logits are all that is asked of it; a ViT-B's checkpoints take 2 GB.
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return logits


def forget(encoder: Encoder, work_dir: Path) -> None:
    """Remove what a run that is done no longer needs: checkpoints, and logits of single pairs.

    In a run of several processes each makes this call.
    """
    # Not before every rank has read what it needs.
    distributed.total(torch.zeros(1, device=device_of(encoder)))
    if distributed.rank() == 0:
        shutil.rmtree(work_dir / FOLDER, ignore_errors=True)


def taken(split: Split, indices: Tensor) -> Split:
    """Some images of a split, in the order of the indices ``(N,)``."""
    chosen = indices.tolist()
    labels = [split.labels[index] for index in chosen]
    return Split(_Taken(split.images, chosen), labels, _fingerprint_of(split, indices))


def _require_learnt(logits: Tensor, labels: Tensor) -> None:
    """Refuse what knows no more of its own training images than how frequent each class is.

    Raises:
        DivergedError: With the numbers, and what to try.
    """
    shares = torch.bincount(labels).double() / len(labels)
    chance = shares.max().item()
    entropy = -torch.special.xlogy(shares, shares).sum().item()
    loss = F.cross_entropy(logits, labels).item()
    top1 = (logits.argmax(1) == labels).double().mean().item()
    spread = math.sqrt(chance * (1 - chance) / len(labels))
    is_sure_and_wrong = loss >= DIVERGED * entropy > 0
    if is_sure_and_wrong or (top1 <= chance + 3 * spread and loss >= NOTHING * entropy > 0):
        raise DivergedError(
            f"The network has learnt nothing: it gets {100 * top1:.2f} % of its training images "
            f"right, and always saying the commonest class {100 * chance:.2f} %; its loss is "
            f"{loss:.3g}, and knowing nothing costs {entropy:.3g}. {ADVICE}, or train longer."
        )


def _identity(run: Run, recipe: Recipe, indices: Tensor, judges: Split) -> dict[str, Any]:
    """All that decides the logits: what another run left is not taken for this one's."""
    return {
        "protocol": run.protocol,
        "encoder": run.encoder.tensor_sha256(),
        "input": asdict(run.encoder.input),
        "config": recipes.as_dict(recipe),
        "data": f"{run.data.id} {_fingerprint_of(run.data.train, indices)}",
        "judges": judges.fingerprint,
        "seed": run.seed,
    }


def _fingerprint_of(split: Split, indices: Tensor) -> str:
    digest = hashlib.sha256(repr(indices.tolist()).encode()).hexdigest()
    return f"{split.fingerprint}[{digest[:16]}]"


class _Taken(Sequence[Image.Image]):
    """Some of the images, decoded when indexed."""

    def __init__(self, images: Sequence[Image.Image], indices: list[int]) -> None:
        self.images = images
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.images[self.indices[index]]
