"""Train a C4 detector by facebookresearch/moco's own program and by ours, step by step.

OMP_NUM_THREADS=1 python tools/bench_detect.py CLONE [--masks] [--steps 5] [--timed 20] [--json F]

CLONE is a clone of facebookresearch/moco; its ``detection/train_net.py`` is imported and its
``detection/configs`` are read. Detectron2 must be installed.

Both are given the same: the encoder, written as ``moco-eval convert`` writes it and loaded by
Detectron2's checkpointer, which must then hold every tensor of ours; the heads, copied once; the
numbers of upstream's configuration, made small in the same entries (``small``), after which the two
configurations must differ in no others than those named in ``APART``; and the same images of the
embedded digit scenes, registered with Detectron2 and read by its own mapper there and by ours here.
Proposals and regions are sampled at random: before each step upstream's generator is set to where
ours stood when our model was called.

The two take turns, step by step, in one process: ours by ``engines.loop.fit``, upstream's by its
Trainer with all of its hooks. Compared are the losses of each step, and the weights after the last
one; timed are whole steps, from the batch at hand to the weights updated and the losses logged.
The verdict is on the processor's seconds, which other programs on the machine do not lengthen; the
clock's are told beside them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from moco_eval.data.scenes import open_digit_scenes
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports import detectron2 as export
from moco_eval.encoders.load import load_encoder
from moco_eval.engines.detectron import build
from moco_eval.engines.detectron.configuration import flat
from moco_eval.engines.examples import Detector, Example, example_of
from moco_eval.engines.loop import Job, fit
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.recipes import RECIPES

# In which entries the two configurations may differ: what is loaded, read and written, and where.
APART = {
    *("MODEL.WEIGHTS", "OUTPUT_DIR", "DATASETS.TRAIN", "DATASETS.TEST"),
    *("DATALOADER.NUM_WORKERS", "VERSION"),
}
# Greatest differences that pass.
LOSS_TOLERANCE = 1e-4
TIME_RATIO = 1.03
DATA = "coco_digit_scenes"

Times = tuple[float, float]


def small(options: argparse.Namespace) -> tuple[Recipe, list[Any]]:
    """The recipe and upstream's entries for it, made so small that a CPU will do."""
    num_iterations = options.steps + options.timed
    drop = max(options.steps - 1, 1)
    recipe = dataclasses.replace(
        RECIPES["coco-c4-2x" if options.masks else "voc-c4-24k"],
        num_iterations=num_iterations,
        batch_total=options.batch,
        reference_world_size=0,
        # A rate at which the weights move, and a step at which it falls.
        lr=0.0025,
        lr_drops=(drop,),
        warmup_iterations=2,
        short_sides_train=(options.side,),
        flip=False,
        roi_batch=options.regions,
        precise_bn_batches=0,
    )
    entries: list[Any] = [
        *("SOLVER.MAX_ITER", num_iterations),
        *("SOLVER.IMS_PER_BATCH", options.batch),
        *("SOLVER.BASE_LR", 0.0025),
        *("SOLVER.STEPS", (drop,)),
        *("SOLVER.WARMUP_ITERS", 2),
        *("INPUT.MIN_SIZE_TRAIN", (options.side,)),
        *("INPUT.RANDOM_FLIP", "none"),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", options.regions),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 10),
        *("TEST.PRECISE_BN.ENABLED", False),
        *("TEST.PRECISE_BN.NUM_ITER", 0),
        # One CPU process has no others to synchronise with.
        *("MODEL.RESNETS.NORM", "BN"),
        *("MODEL.DEVICE", "cpu"),
        *("DATALOADER.NUM_WORKERS", 0),
    ]
    if options.masks:
        # The scenes' masks are run lengths, which Detectron2 takes as bitmaps alone.
        entries += ["INPUT.MASK_FORMAT", "bitmask"]
    return recipe, entries


def upstream_configuration(
    options: argparse.Namespace, entries: list[Any], folder: Path
) -> CfgNode:
    """Upstream's own file with the entries of ``small``."""
    name = "coco_R_50_C4_2x_moco" if options.masks else "pascal_voc_R_50_C4_24k_moco"
    cfg = get_cfg()
    cfg.merge_from_file(str(options.clone / "detection" / "configs" / f"{name}.yaml"))
    cfg.merge_from_list(entries)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (DATA,), ()
    cfg.MODEL.WEIGHTS = str(folder / "encoder.pth")
    cfg.OUTPUT_DIR = str(folder / "upstream")
    cfg.freeze()
    return cfg


def upstream_trainer(cfg: CfgNode, encoder: Encoder, batches: list[list[Any]]) -> Any:
    """Its Trainer with its weights loaded, fed with ``batches`` in their order."""
    export.prepare(encoder).write(Path(cfg.MODEL.WEIGHTS))
    import train_net  # type: ignore[import-not-found]

    class Fed(train_net.Trainer):  # type: ignore[misc]
        @classmethod
        def build_train_loader(cls, cfg: CfgNode) -> list[list[Any]]:
            return batches

    trainer = Fed(cfg)
    trainer.resume_or_load(resume=False)
    return trainer


def require_same_configuration(theirs: CfgNode, ours: CfgNode) -> None:
    expected, found = flat(theirs), flat(ours)
    wrong = {key: (expected[key], found[key]) for key in expected if expected[key] != found[key]}
    assert wrong.keys() <= APART, f"upstream's and ours: {wrong}"


def require_same_encoder(theirs: dict[str, Tensor], ours: Any) -> int:
    """Every tensor of the encoder, in both under the same name; how many there are."""
    own = ours.model.state_dict()
    assert theirs.keys() == own.keys(), theirs.keys() ^ own.keys()
    names = [name for name in ours.names if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(theirs[name], own[name]) for name in names)
    return len(names)


def require_same_examples(theirs: list[list[Any]], ours: list[list[Example]]) -> None:
    """Two readers of the same files: the same pixels, boxes, classes and masks."""
    for their_batch, our_batch in zip(theirs, ours, strict=True):
        for image, example in zip(their_batch, our_batch, strict=True):
            objects = image["instances"]
            assert torch.equal(image["image"], example.pixels)
            assert torch.equal(objects.gt_classes, example.labels)
            torch.testing.assert_close(objects.gt_boxes.tensor, example.boxes, rtol=0, atol=1e-4)
            if example.masks is not None:
                assert torch.equal(objects.gt_masks.tensor, example.masks)


def now() -> Times:
    """The processor's seconds of this process, and the clock's."""
    return time.process_time(), time.perf_counter()


def since(begun: Times) -> Times:
    processor_s, clock_s = now()
    return processor_s - begun[0], clock_s - begun[1]


class Duel:
    """Ours trains; whenever it asks for the next batch, upstream first makes up for the last."""

    def __init__(self, detector: Detector, trainer: Any, batches: list[list[Example]]) -> None:
        self.trainer = trainer
        self.batches = batches
        self.losses: dict[str, list[dict[str, float]]] = {"ours": [], "upstream": []}
        self.seconds: dict[str, list[Times]] = {"ours": [], "upstream": []}
        self.begun = now()
        self.state = torch.get_rng_state()
        detector.register_forward_pre_hook(self._remember)
        detector.register_forward_hook(self._note("ours"))
        trainer.model.register_forward_hook(self._note("upstream"))

    def feed(self, steps: range) -> Iterator[list[Example]]:
        """Our batches; between two of them the clock of the one stops, and the other's runs."""
        for step in steps:
            self.make_up()
            self.begun = now()
            yield self.batches[step]
        self.make_up()

    def make_up(self) -> None:
        """Upstream's step, if ours is ahead."""
        if len(self.losses["ours"]) == len(self.losses["upstream"]):
            return
        self.seconds["ours"].append(since(self.begun))
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.state)
            begun = now()
            self.trainer.iter = len(self.losses["upstream"])
            self.trainer.before_step()
            self.trainer.run_step()
            self.trainer.after_step()
            self.seconds["upstream"].append(since(begun))

    def _remember(self, *_: Any) -> None:
        self.state = torch.get_rng_state()

    def _note(self, who: str) -> Any:
        def note(_module: Any, _arguments: Any, losses: dict[str, Tensor]) -> None:
            self.losses[who].append({name: loss.item() for name, loss in losses.items()})

        return note


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train both, print the losses of each step, and return what was measured."""
    data = open_digit_scenes(folder / "scenes")
    recipe, entries = small(options)
    encoder = load_encoder(options.encoder, input=options.input)
    cfg = upstream_configuration(options, entries, folder)
    register_coco_instances(
        DATA, {}, str(folder / "scenes/train.json"), str(folder / "scenes/train")
    )
    records = {record["image_id"]: record for record in DatasetCatalog.get(DATA)}
    shown = [scene for scene in data.train.scenes if len(scene.labels)]
    read = DatasetMapper(cfg, is_train=True)
    chosen = [
        [shown[(step * options.batch + place) % len(shown)] for place in range(options.batch)]
        for step in range(recipe.num_iterations)
    ]
    theirs = [[read(records[scene.image_id]) for scene in scenes] for scenes in chosen]
    ours = [[example_of(scene, recipe, side=options.side) for scene in scenes] for scenes in chosen]
    require_same_examples(theirs, ours)

    trainer = upstream_trainer(cfg, encoder, theirs)
    detector: Any = build(encoder, recipe, num_classes=len(data.classes))
    require_same_configuration(cfg, detector.cfg)
    num_tensors = require_same_encoder(trainer.model.state_dict(), detector)
    detector.model.load_state_dict(trainer.model.state_dict())

    duel = Duel(detector, trainer, ours)
    job = Job(name="bench", folder=folder / "ours", arch=encoder.arch, run={}, seed=0)
    with EventStorage(0) as trainer.storage:
        trainer.before_train()
        fit(detector, recipe, duel.feed, job)
        duel.make_up()
    return {
        "tensors_of_encoder": num_tensors,
        **_losses_compared(duel.losses, options.steps),
        "greatest_difference_of_weights": max(
            (tensor.float() - other.float()).abs().max().item()
            for tensor, other in zip(
                detector.model.state_dict().values(),
                trainer.model.state_dict().values(),
                strict=True,
            )
        ),
        **_times_compared(duel.seconds, options.steps),
    }


def _losses_compared(losses: dict[str, list[dict[str, float]]], num_steps: int) -> dict[str, Any]:
    names = list(losses["ours"][0])
    print("step  " + "  ".join(f"{name + ' ours':>18} {'upstream':>10}" for name in names))
    worst = 0.0
    for step, (ours, theirs) in enumerate(zip(losses["ours"], losses["upstream"], strict=True)):
        apart = max(abs(ours[name] - theirs[name]) for name in names)
        if step < num_steps:
            worst = max(worst, apart)
            pairs = "  ".join(f"{ours[name]:18.6f} {theirs[name]:10.6f}" for name in names)
            print(f"{step:4d}  {pairs}")
    return {"greatest_difference_of_losses": worst}


def _times_compared(seconds: dict[str, list[Times]], num_steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {"timed_steps": len(seconds["ours"]) - num_steps}
    for number, name in enumerate(("", "clock_")):
        ours, theirs = (
            [times[number] for times in seconds[who][num_steps:]] for who in ("ours", "upstream")
        )
        found[f"{name}ours_s"] = statistics.median(ours)
        found[f"{name}upstream_s"] = statistics.median(theirs)
        # Of neighbours in time, so that a slow minute of the machine is both's.
        found[f"{name}ratio"] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clone", type=Path)
    parser.add_argument("--encoder", default="random:resnet50")
    parser.add_argument("--input", default="imagenet")
    parser.add_argument("--masks", action="store_true", help="COCO's C4 Mask R-CNN, not VOC's C4")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--regions", type=int, default=32, help="sampled of an image")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(options.clone / "detection"))
    # Detectron2 tells of every tensor that it loads and every module that it builds.
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = compare(options, Path(folder))
    for name, value in found.items():
        print(f"{name}: {value:.6g}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    assert found["greatest_difference_of_losses"] < LOSS_TOLERANCE, "the losses differ"
    assert found["ratio"] <= TIME_RATIO, "ours is slower"


if __name__ == "__main__":
    main()
