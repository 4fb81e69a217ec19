"""One fine-tuning after the other, each from the encoder to logits, and each done once."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from moco_eval import distributed, recipes
from moco_eval.chance import Fit, fault_of
from moco_eval.data.splits import ImageData, Split
from moco_eval.data.subsets import subset
from moco_eval.encoders.encoder import Encoder
from moco_eval.errors import DivergedError
from moco_eval.files import atomic_file
from moco_eval.resources import Resources
from moco_eval.training.classifier import Classifier
from moco_eval.training.crops import TrainingCrops
from moco_eval.training.loop import ADVICE, Job, fit, predict
from moco_eval.training.recipe import Plan, Recipe

FOLDER = "finetune"
LOGITS = "logits.safetensors"
# On how many of its training images it is seen whether a network has learnt anything.
NUM_LOOKED_AT = 2048


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
    path, device = folder / LOGITS, encoder.device
    is_done = torch.tensor([int(path.exists())], device=device)
    if int(distributed.broadcast(is_done)):
        return load_file(path)["logits"]

    model = Classifier(encoder, len(run.data.classes), seed=run.seed)
    images = subset(run.data.train, indices.tolist())
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
        seen = subset(run.data.train, indices[::step].tolist())
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
    distributed.total(torch.zeros(1, device=encoder.device))
    if distributed.rank() == 0:
        shutil.rmtree(work_dir / FOLDER, ignore_errors=True)


def _require_learnt(logits: Tensor, labels: Tensor) -> None:
    """Refuse what knows no more of its own training images than how frequent each class is.

    Raises:
        DivergedError: With the numbers, and what to try.
    """
    top1 = 100 * (logits.argmax(1) == labels).double().mean().item()
    fault = fault_of(Fit(loss=F.cross_entropy(logits, labels).item(), top1=top1), labels)
    if fault:
        raise DivergedError(f"The network {fault}. {ADVICE}, or train longer.")


def _identity(run: Run, recipe: Recipe, indices: Tensor, judges: Split) -> dict[str, Any]:
    """All that decides the logits: what another run left is not taken for this one's."""
    return {
        "protocol": run.protocol,
        "encoder": run.encoder.tensor_sha256(),
        "input": asdict(run.encoder.input),
        "config": recipes.as_dict(recipe),
        "data": f"{run.data.id} {subset(run.data.train, indices.tolist()).fingerprint}",
        "judges": judges.fingerprint,
        "seed": run.seed,
    }
