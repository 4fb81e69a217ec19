"""From an encoder to detections: what both dense protocols and both engines share."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from moco_eval import engines
from moco_eval.data.coco import SceneData, SceneSplit
from moco_eval.data.sampler import draw_key
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks import has_resnet_parts, stages_of
from moco_eval.engines.average_precision import as_results
from moco_eval.engines.examples import Detector, example_of, training_batches
from moco_eval.engines.gate import check_backbone
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import DivergedError, output_error
from moco_eval.files import write_text
from moco_eval.progress import Progress

ROW_EVERY_STEPS = 20

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_detector(
    encoder: Encoder, recipe: Recipe, data: SceneData, *, engine: str, seed: int, with_masks: bool
) -> Detector:
    """Build a C4 R-CNN around a copy of ``encoder`` and prove that the copy is the encoder.

    Args:
        encoder: A ResNet; for torchvision also another network of a stem and four stages.
        recipe: Sizes of anchors, samples and pooled regions.
        data: Its classes are counted, and its first test scene is what the proof looks at.
        engine: ``auto``, ``detectron2`` or ``torchvision``.
        seed: Decides the heads' initial weights.
        with_masks: Mask R-CNN instead of Faster R-CNN.

    Raises:
        UsageError: If the encoder has no levels, or the engine is not there or cannot build it.
        CheckpointError: If the backbone is not the encoder.
    """
    # Said before any engine is imported: a network without levels is no backbone.
    stages_of(encoder.network)
    build: Callable[..., Detector]
    if engines.choose(engine, resnet=has_resnet_parts(encoder.network)) == "detectron2":
        from moco_eval.engines import detectron

        build = detectron.C4Detector
    else:
        from moco_eval.engines import torchvision

        build = torchvision.C4Detector
    device = next(encoder.network.parameters()).device
    with _draws_keyed_by(draw_key(seed, 0), device):
        detector = build(encoder, recipe, num_classes=len(data.classes), with_masks=with_masks)
    shown = example_of(data.test.scenes[0], recipe, side=recipe.short_side_test)
    check_backbone(detector, encoder, shown.pixels)
    return detector


def train(
    detector: Detector, recipe: Recipe, scenes: SceneSplit, *, seed: int, work_dir: Path
) -> dict[str, Any]:
    """Train all weights, then compute BatchNorm's statistics anew.

    BatchNorm sees the batch of this one process; ``work_dir/metrics.jsonl`` gets a row of mean
    losses every 20 updates.

    Returns:
        What a record should say of it.

    Raises:
        DataError: If there are too few scenes, or one is damaged.
        DivergedError: If a loss is not finite.
    """
    begun_s = time.monotonic()
    batches = training_batches(scenes, recipe, seed=seed, with_masks=detector.with_masks)
    optimizer = build_optimizer(detector, recipe)
    detector.train()
    device = next(detector.parameters()).device
    with (
        _draws_keyed_by(draw_key(seed, 1), device),
        _Log(work_dir / "metrics.jsonl", recipe.num_iterations) as log,
    ):
        for step in range(recipe.num_iterations):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(step)
            losses = _losses(detector, next(batches), step)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            log.add(step, {name: loss.item() for name, loss in losses.items()}, recipe.lr_at(step))

        # The running averages lag behind the weights; detections are made with exact ones.
        update_bn(((next(batches),) for _ in range(recipe.precise_bn_batches)), detector)
    return {
        "trained": "all weights; BatchNorm on the batch of one process",
        "num_objects_dropped": scenes.num_dropped,
        "final_losses": log.last,
        "train_s": round(time.monotonic() - begun_s, 1),
    }


def detect(
    detector: Detector, recipe: Recipe, scenes: SceneSplit, *, work_dir: Path
) -> list[dict[str, Any]]:
    """Detect in every scene and write ``work_dir/detections.json``, COCO's results list.

    Returns:
        The list, with the json's own image and category numbers, masks as run lengths.
    """
    detector.eval()
    results = []
    for scene in tqdm(scenes.scenes, desc="detecting", leave=False, disable=None):
        found = detector.detect(example_of(scene, recipe, side=recipe.short_side_test))
        results += as_results(scene.image_id, found, scenes)
    write_text(work_dir / "detections.json", json.dumps(results))
    return results


@contextmanager
def _draws_keyed_by(key: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for the block; outside of it they go on as if it had not been."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(key)
        yield


def build_optimizer(detector: Detector, recipe: Recipe) -> torch.optim.SGD:
    """SGD as Detectron2 builds it: the weights of norms do not decay."""
    norms = {
        parameter
        for module in detector.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    others = [parameter for parameter in detector.parameters() if parameter not in norms]
    return torch.optim.SGD(
        [
            {"params": others, "weight_decay": recipe.weight_decay},
            {"params": list(norms), "weight_decay": 0.0},
        ],
        recipe.lr,
        momentum=recipe.sgd_momentum,
    )


def _losses(detector: Detector, batch: Any, step: int) -> dict[str, Tensor]:
    try:
        losses: dict[str, Tensor] = detector(batch)
        finite = all(math.isfinite(loss.item()) for loss in losses.values())
    except FloatingPointError:  # Detectron2's own check of its proposals
        finite = False
    if not finite:
        raise DivergedError(
            f"The detector's loss is not finite at update {step}. Try a smaller learning rate or a "
            "longer warm-up: --set lr=... --set warmup_iterations=..."
        )
    return losses


class _Log:
    """Mean losses to a file, and each step's to whoever watches."""

    def __init__(self, path: Path, num_steps: int) -> None:
        self.path = path
        self.num_steps = num_steps
        self.rows: list[dict[str, float]] = []
        self.last: dict[str, float] = {}

    def __enter__(self) -> _Log:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file: IO[str] = self.path.open("w", buffering=1)
        except OSError as error:
            raise output_error(self.path, error) from error
        self.progress = Progress("training", total=self.num_steps)
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.close()
        self.file.close()

    def add(self, step: int, losses: dict[str, float], lr: float) -> None:
        self.rows.append(losses)
        self.progress.show({"loss": sum(losses.values()), "lr": lr})
        if (step + 1) % ROW_EVERY_STEPS and step + 1 < self.num_steps:
            return
        self.last = {
            name: round(sum(row[name] for row in self.rows) / len(self.rows), 5) for name in losses
        }
        self.rows = []
        self.file.write(json.dumps({"step": step, **self.last, "lr": lr}) + "\n")
