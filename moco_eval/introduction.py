"""What a run is, said before it starts; and the proof that it would measure what it should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moco_eval import semantic
from moco_eval.cell import Cell, Prepared, num_devices, prepare
from moco_eval.engines import memory, transfer
from moco_eval.engines.examples import Detector
from moco_eval.engines.recipe import Recipe, Training

DETECTORS = {
    "c4": "an R-CNN on res4, whose res5 runs on regions",
    "dc5": "an R-CNN on a dilated res5",
    "fpn": "an R-CNN on a feature pyramid",
    "retinanet": "a RetinaNet",
}


def introduce(cell: Cell, prepared: Prepared) -> None:
    """Say what is about to run, what was published of it, and how it deviates from that."""
    print("\n".join(_lines(cell, prepared)), flush=True)


def check(cell: Cell) -> None:
    """Build what the dense cell would train, prove that its backbone is the encoder, and say both.

    Raises:
        CheckpointError: If the backbone is not the encoder.
    """
    prepared = prepare(cell)
    introduce(cell, prepared)
    encoder, recipe, data = prepared.encoder, prepared.recipe, prepared.data
    model: Detector | semantic.Segmenter
    if isinstance(recipe, Recipe):
        engine = prepared.run.engine
        assert engine is not None, "a detector has an engine"
        model, proof = transfer.build_detector(encoder, recipe, data, engine=engine, seed=cell.seed)
    else:
        model, proof = semantic.build(encoder, recipe, data, seed=cell.seed)
    for key, value in model.settings().items():
        print(f"{key}: {value}")
    print(proof)


def _lines(cell: Cell, prepared: Prepared) -> Iterator[str]:
    run, recipe = prepared.run, prepared.recipe
    published = getattr(prepared.module, "PUBLISHED", {}).get(run.recipe)
    if isinstance(recipe, Training):
        yield from _dense_lines(cell, run, recipe)
    if isinstance(recipe, Recipe):
        yield from prepared.data.describe()
        yield str(
            memory.estimate(
                prepared.encoder,
                recipe,
                batch_per_device=recipe.batch_total // num_devices(cell),
                num_classes=len(prepared.data.classes),
                num_keypoints=len(prepared.data.train.keypoint_names),
                engine=run.engine or "",
            )
        )
    if published:
        yield f"{run.protocol}, recipe {run.recipe}: {published}"
    if run.deviations:
        told = ", ".join(f"{key}={value}" for key, value in run.deviations.items())
        yield f"Deviates from the recipe: {told}."


def _dense_lines(cell: Cell, run: Any, recipe: Training) -> Iterator[str]:
    if isinstance(recipe, Recipe):
        heads = [name for name in ("masks", "keypoints") if getattr(recipe, name)]
        kind = "instance segmentation" if cell.protocol == "segment" else "object detection"
        yield (
            f"{run.protocol}: {kind} by {DETECTORS[recipe.detector]}"
            f"{' with ' + ' and '.join(heads) if heads else ''}, engine {run.engine}."
        )
    else:
        yield f"{run.protocol}: semantic segmentation, a class for each pixel."
    devices = num_devices(cell)
    per_device = recipe.batch_total // devices
    norms = "synchronised over them" if devices > 1 else "on the images of the one device"
    if recipe.freeze != "none":
        norms = "of the encoder frozen"
    many = f"{devices} devices" if devices > 1 else "One device"
    yield f"{many} of {per_device} images, BatchNorm {norms}."
    reference = recipe.reference_world_size
    if reference not in (0, devices):
        yield (
            f"The recipe is for {reference} devices: batch, learning rate and updates follow "
            "by the linear rule (--set reference_world_size=0 leaves them)."
        )
