"""From an encoder to detections: what both dense protocols and both engines share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from moco_eval import distributed, engines, recipes
from moco_eval.data.coco import SceneData, SceneSplit
from moco_eval.data.sampler import draw_key
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.examples import Detector, example_of, training_batches
from moco_eval.engines.gate import Proof, check_backbone
from moco_eval.engines.loop import Job, fit
from moco_eval.engines.recipe import Recipe
from moco_eval.files import atomic_file, write_text
from moco_eval.scoring import as_results
from moco_eval.training.checkpoint import FOLDER

DETECTIONS = "detections.json"
WEIGHTS = "model.pth"


def build_detector(
    encoder: Encoder, recipe: Recipe, data: SceneData, *, engine: str, seed: int
) -> tuple[Detector, Proof]:
    """Build the recipe's detector around a copy of ``encoder``, and prove that it is the encoder.

    Args:
        encoder: A ResNet, another network of a stem and four stages, or a plain transformer.
        recipe: What is built.
        data: Its classes are counted, and its first test scene is what the proof looks at.
        engine: ``auto``, ``detectron2`` or ``torchvision``.
        seed: Decides the heads' initial weights.

    Raises:
        UsageError: If the recipe does not fit the encoder, or the engine is not there.
        CheckpointError: If the backbone is not the encoder.
    """
    build: Callable[..., Detector]
    if engines.choose(engine, encoder) == "detectron2":
        from moco_eval.engines.detectron import build
    else:
        from moco_eval.engines.torchvision import build
    num_keypoints = len(data.train.keypoint_names)
    with _draws_keyed_by(draw_key(seed, 0), encoder.device):
        detector = build(
            encoder, recipe, num_classes=len(data.classes), num_keypoints=num_keypoints
        )
    shown = example_of(data.test.scenes[0], recipe, side=recipe.short_side_test)
    return detector, check_backbone(detector, encoder, shown.pixels)


def train(  # noqa: PLR0913 - what it trains, on what, and where
    detector: Detector,
    encoder: Encoder,
    recipe: Recipe,
    scenes: SceneSplit,
    *,
    seed: int,
    work_dir: Path,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Train what is not frozen, then compute BatchNorm's statistics anew.

    ``work_dir`` gets ``metrics.jsonl``, a row of mean losses every 20 updates, TensorBoard's files
    and checkpoints, from the newest of which the same call continues.

    Returns:
        What a record should say of it.

    Raises:
        DataError: If there are too few scenes, or one is damaged.
        DivergedError: If a loss is not finite.
        PreemptedError: If the process was asked to stop; the same call continues.
    """
    device = encoder.device.type
    batches = training_batches(scenes, recipe, seed=seed, num_workers=num_workers, device=device)
    identity = {
        "detector": type(detector).__module__,
        "encoder": encoder.tensor_sha256(),
        "recipe": recipes.as_dict(recipe),
        "data": f"{scenes.id}, {len(scenes)} scenes, {sum(len(s.labels) for s in scenes.scenes)}",
        "seed": seed,
    }
    name = f"training on {len(scenes)} scenes"
    job = Job(name=name, folder=work_dir, arch=encoder.arch, run=identity, seed=seed)
    details = fit(detector, recipe, batches, job)
    return {**details, "num_objects_dropped": scenes.num_dropped}


def detect(
    detector: Detector, recipe: Recipe, scenes: SceneSplit, *, work_dir: Path
) -> list[dict[str, Any]]:
    """Detect in every scene once, and write ``work_dir/detections.json``, COCO's results list.

    In a run of several processes each makes this call and takes its share.

    Returns:
        The list, with the json's own image and category numbers, masks as run lengths.
    """
    detector.eval()
    rank, world_size = distributed.rank(), distributed.world_size()
    own = [
        as_results(
            scene.image_id,
            detector.detect(example_of(scene, recipe, side=recipe.short_side_test)),
            scenes,
        )
        for scene in tqdm(
            scenes.scenes[rank::world_size],
            desc="detecting",
            leave=False,
            disable=None if rank == 0 else True,
        )
    ]
    by_scene = distributed.gather_dealt_objects(own)
    assert len(by_scene) == len(scenes), f"{len(by_scene)} of {len(scenes)} scenes"
    results = [result for found in by_scene for result in found]
    if rank == 0:
        write_text(work_dir / DETECTIONS, json.dumps(results))
    return results


def keep_weights(detector: Detector, work_dir: Path) -> None:
    """Put the trained detector into ``work_dir/model.pth`` in the place of its checkpoints.

    Detectron2's own checkpointer loads the file of its engine. In a run of several processes each
    makes this call.
    """
    # Not before every rank has read what it needs.
    distributed.total(torch.zeros(1, device=next(detector.parameters()).device))
    if distributed.rank() == 0:
        with atomic_file(work_dir / WEIGHTS) as file:
            torch.save({"model": detector.weights()}, file)
        shutil.rmtree(work_dir / FOLDER, ignore_errors=True)


@contextmanager
def _draws_keyed_by(key: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for the block; outside of it they go on as if it had not been."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(key)
        yield
