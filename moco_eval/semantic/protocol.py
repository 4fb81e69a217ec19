"""Semantic segmentation: train a network around the encoder, and judge every pixel of the test set.

Protocol ``segment-semantic@1``: MoCo's fully convolutional network (arXiv:1911.05722, A.5), all of
its weights fine-tuned with BatchNorm over the batches of all processes. Protocol
``segment-semantic-linear@1``: BatchNorm and a linear classifier on the frozen encoder's last map.
Both are plain torch, so that a number does not depend on who trains detectors. Test images are
whole and of their own size; each counts once on any number of processes. Reported: mIoU of all
test images together, and the share of pixels that are right.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval import recipes
from moco_eval.data.semantic import SemanticData, SemanticSplit
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.gate import check_backbone
from moco_eval.engines.loop import Job, fit
from moco_eval.engines.selection import judges, select_lr
from moco_eval.features import frozen
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources
from moco_eval.semantic.crops import training_batches
from moco_eval.semantic.inference import judge, predicted_of, worst_first
from moco_eval.semantic.model import Segmenter
from moco_eval.semantic.recipe import SemanticRecipe

VERSION = 1
# How many images are shown of the best and of the worst.
NUM_SHOWN = 4


@dataclass(frozen=True)
class _Run:
    encoder: Encoder
    data: SemanticData
    seed: int
    work_dir: Path
    resources: Resources


def evaluate(
    encoder: Encoder,
    recipe: SemanticRecipe,
    data: SemanticData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Train a copy of the encoder under a new head, and return its mIoU on the test images.

    In a run of several processes each makes this call, and has the outcome.

    Raises:
        UsageError: If the encoder has no map of features, or a batch cannot be shared out.
        CheckpointError: If the network's backbone is not the encoder.
        DataError: If an image or a mask is damaged, or there are too few.
        DivergedError: If training diverges.
        PreemptedError: If the process was asked to stop; the same call continues.
    """
    run = _Run(encoder, data, seed, work_dir, resources)
    with frozen(encoder):
        # The learning rate, if there are several, is chosen on training images.
        recipe, chosen = select_lr(recipe, functools.partial(_score_held_out, run))

        # All training images, then all test images.
        model = build(encoder, recipe, data, seed=seed)
        details = _train(run, model, recipe, data.train, name="segmentation")
        scores = judge(model, data.test, num_workers=resources.num_workers)

    # What pictures show of it.
    order = worst_first(scores)
    drawn = dict(scores.drawn) | {
        "predicted_worst": predicted_of(model, data.test, order[:NUM_SHOWN]),
        "predicted_best": predicted_of(model, data.test, order[::-1][:NUM_SHOWN]),
    }
    return Outcome(
        metrics=dict(scores.metrics),
        num_test=len(data.test),
        details=details | chosen | model.settings(),
        drawn=drawn,
    )


def build(encoder: Encoder, recipe: SemanticRecipe, data: SemanticData, *, seed: int) -> Segmenter:
    """Build the network around a copy of ``encoder``, and prove that the copy is the encoder.

    Raises:
        UsageError: If the encoder has no map of features.
        CheckpointError: If a tensor or a map is another.
    """
    model = Segmenter(encoder, recipe, num_classes=len(data.classes), seed=seed)
    image, _ = data.test.pair(0)
    check_backbone(model, encoder, pil_to_tensor(image))
    return model


def _train(
    run: _Run, model: Segmenter, recipe: SemanticRecipe, split: SemanticSplit, *, name: str
) -> dict[str, Any]:
    batches = training_batches(
        split,
        run.encoder.input,
        recipe,
        seed=run.seed,
        num_workers=run.resources.num_workers,
        device=model.device.type,
    )
    identity = {
        "protocol": f"{recipes.protocol_id('segment', recipe)}@{VERSION}",
        "encoder": run.encoder.tensor_sha256(),
        "input": dataclasses.asdict(run.encoder.input),
        "config": recipes.as_dict(recipe),
        "data": f"{run.data.id} {run.data.fingerprint} {len(split)}",
        "seed": run.seed,
    }
    job = Job(
        name=name,
        folder=run.work_dir / name.replace(" ", "-"),
        arch=run.encoder.arch,
        run=identity,
        seed=run.seed,
    )
    return fit(model, recipe, batches, job)


def _score_held_out(run: _Run, recipe: SemanticRecipe) -> float:
    """The mIoU on held-out training images of a network that never saw them."""
    items = run.data.train.items
    held = judges([Path(item.name).name for item in items])
    kept = SemanticSplit(
        run.data.train.id, tuple(i for i, out in zip(items, held, strict=True) if not out)
    )
    out = SemanticSplit(run.data.train.id, tuple(i for i, o in zip(items, held, strict=True) if o))
    model = build(run.encoder, recipe, run.data, seed=run.seed)
    _train(run, model, recipe, kept, name=f"lr {recipe.lr:g}")
    scores = judge(model, out, num_workers=run.resources.num_workers)
    return scores.metrics["mIoU"]
