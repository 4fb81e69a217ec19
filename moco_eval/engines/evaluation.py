"""One detector from the encoder to its scores: what ``detect`` and ``segment`` share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moco_eval import distributed
from moco_eval.data.scene import SceneData, SceneSplit
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines import transfer
from moco_eval.engines.examples import Detector
from moco_eval.engines.gate import check_tensors
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.selection import judges, select_lr
from moco_eval.errors import DataError
from moco_eval.records import Outcome
from moco_eval.resources import Resources
from moco_eval.scoring import Kind, Scores, score
from moco_eval.scoring.coco import SUFFIX

# What is drawn of the boxes, whatever else was scored.
_OF_BOXES = ("box_confusion", "F1_by_image")


def evaluate(  # noqa: PLR0913 - the protocols' common signature
    encoder: Encoder,
    recipe: Recipe,
    data: SceneData,
    *,
    primary: Kind,
    seed: int,
    work_dir: Path,
    engine: str,
    resources: Resources,
) -> Outcome:
    """Build the detector, train it, detect in the test scenes, and score boxes and what it has.

    In a run of several processes each makes this call.

    Args:
        encoder: Stays as it is: a copy of it is trained.
        recipe: With a grid of learning rates, each is judged on held-out training scenes first.
        data: Scenes to train on and scenes to detect in.
        primary: Whose AP is the first of the metrics.
        seed: Decides every draw.
        work_dir: Gets checkpoints, ``metrics.jsonl`` and ``detections.json``.
        engine: ``auto``, ``detectron2`` or ``torchvision``.
        resources: What it may use of the machine.

    Raises:
        UsageError: If the recipe does not fit the encoder, or the engine is not there.
        CheckpointError: If the detector's backbone is not the encoder.
        DataError: If a scene is damaged, or has no masks where they are asked for.
        DivergedError: If training diverges.
        PreemptedError: If it was asked to stop; the same call continues.
    """

    def trained(recipe: Recipe, data: SceneData, folder: Path) -> _Trained:
        detector, proof = transfer.build_detector(encoder, recipe, data, engine=engine, seed=seed)
        details = transfer.train(
            detector,
            encoder,
            recipe,
            data.train,
            seed=seed,
            work_dir=folder,
            num_workers=resources.num_workers,
        )
        # Frozen means frozen, and what is not finite would not tell.
        if recipe.freeze == "encoder":
            check_tensors(detector.backbone(), encoder)
        results = transfer.detect(
            detector, recipe, data.test, work_dir=folder, num_workers=resources.num_workers
        )
        described = {"gate": asdict(proof), "engine_settings": detector.settings()}
        return _Trained(detector, results, described | details)

    def judged(recipe: Recipe) -> float:
        part = _held_out(data)
        folder = work_dir / f"lr-{recipe.lr:g}"
        done = trained(recipe, part, folder)
        transfer.keep_weights(done.detector, folder)
        metrics = _score(part, done.results, recipe, [primary]).metrics
        return next(iter(metrics.values()))

    recipe, selection = select_lr(recipe, judged)
    done = trained(recipe, data, work_dir)
    kinds: list[Kind] = ["bbox"]
    kinds += ["segm"] if recipe.masks else []
    kinds += ["keypoints"] if recipe.keypoints else []
    scores = _score(data, done.results, recipe, sorted(kinds, key=lambda kind: kind != primary))
    transfer.keep_weights(done.detector, work_dir)
    return Outcome(
        metrics=dict(scores.metrics),
        num_test=len(data.test),
        details={
            **done.details,
            **scores.details,
            **selection,
            "num_processes": distributed.world_size(),
        },
        drawn={**scores.drawn, "detections": done.results},
    )


@dataclass(frozen=True)
class _Trained:
    detector: Detector
    results: list[dict[str, Any]]
    details: dict[str, Any]


def _score(data: SceneData, results: list[Any], recipe: Recipe, kinds: Sequence[Kind]) -> Scores:
    """The scores of all kinds in one; the arrays of pictures by the suffix of their kind."""
    metrics: dict[str, float] = {}
    drawn: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for kind in kinds:
        found = score(
            data.test,
            results,
            kind,
            data.scoring,
            max_detections=recipe.detections_per_image,
        )
        metrics |= found.metrics
        details |= found.details
        shared = {name: found.drawn[name] for name in _OF_BOXES if name in found.drawn}
        own = {name: each for name, each in found.drawn.items() if name not in shared}
        drawn |= shared | {f"{name}{SUFFIX[kind]}": each for name, each in own.items()}
    return Scores(metrics=metrics, drawn=drawn, details=details)


def _held_out(data: SceneData) -> SceneData:
    """The training scenes alone, those that judge in the place of the test scenes."""
    split = data.train
    is_judge = judges([scene.path.name for scene in split.scenes])

    def part(judge: bool) -> SceneSplit:
        kept = (s for s, is_one in zip(split.scenes, is_judge, strict=True) if is_one == judge)
        scenes = tuple(kept)
        if not any(len(scene.labels) for scene in scenes):
            raise DataError(
                f"{split.id} has {len(split)} training scenes, too few to hold some out for the "
                "choice of a learning rate: set it by --set lr=... instead of --lr-grid."
            )
        return dataclasses.replace(split, scenes=scenes)

    return dataclasses.replace(data, train=part(False), test=part(True))
