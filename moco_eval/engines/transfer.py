"""From an encoder to detections: what both dense protocols and both engines share."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import BatchSampler, Dataset

from moco_eval import distributed, engines, recipes
from moco_eval.data.sampler import draw_key
from moco_eval.data.scene import SceneData, SceneSplit
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.examples import Detector, Example, image_of, training_batches
from moco_eval.engines.gate import Proof, check_backbone
from moco_eval.engines.loop import Job, fit
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import PreemptedError
from moco_eval.files import atomic_file, write_text
from moco_eval.progress import Progress
from moco_eval.scoring import as_results
from moco_eval.training.checkpoint import FOLDER
from moco_eval.training.loading import load
from moco_eval.training.signals import StopRequest

DETECTIONS = "detections.json"
WEIGHTS = "model.pth"
TRAINED = "trained.json"


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
        # It uses what torch has deprecated since; that is not the user's to change.
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
        from moco_eval.engines.detectron import build
    else:
        from moco_eval.engines.torchvision import build
    num_keypoints = len(data.train.keypoint_names)
    with _draws_keyed_by(draw_key(seed, 0), encoder.device):
        detector = build(
            encoder, recipe, num_classes=len(data.classes), num_keypoints=num_keypoints
        )
    shown = image_of(data.test.scenes[0], recipe)
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
    and checkpoints, from the newest of which the same call continues. Where ``keep_weights`` has
    put the trained detector there, it is taken as it is.

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
        "engine": type(detector).__module__,
        "encoder": encoder.tensor_sha256(),
        "input": asdict(encoder.input),
        "config": recipes.as_dict(recipe),
        "data": f"{scenes.id}, {len(scenes)} scenes, {_fingerprint(scenes)}",
        "seed": seed,
    }
    if details := _restore(detector, identity, work_dir):
        return details
    name = f"training on {len(scenes)} scenes"
    job = Job(name=name, folder=work_dir, arch=encoder.arch, run=identity, seed=seed)
    details = fit(detector, recipe, batches, job) | {"num_objects_dropped": scenes.num_dropped}
    if distributed.rank() == 0:
        write_text(work_dir / TRAINED, json.dumps({"run": identity, "details": details}))
    return details


def detect(
    detector: Detector,
    recipe: Recipe,
    scenes: SceneSplit,
    *,
    work_dir: Path,
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """Detect in every scene once, and write ``work_dir/detections.json``, COCO's results list.

    In a run of several processes each makes this call and takes its share.

    Returns:
        The list, with the json's own image and category numbers, masks as run lengths.

    Raises:
        DataError: If an image cannot be loaded.
        PreemptedError: If the process was asked to stop; nothing is kept of what it found.
    """
    detector.eval()
    rank, world_size = distributed.rank(), distributed.world_size()
    share = range(rank, len(scenes), world_size)
    device = next(detector.parameters()).device.type
    images = load(
        _TestImages(scenes, recipe),
        BatchSampler(share, 1, drop_last=False),
        num_workers=num_workers,
        device=device,
        collate=list,
    )
    own = []
    progress = Progress("detecting", total=len(share), unit="image", quiet=rank > 0)
    with closing(progress), StopRequest().listening() as stop:
        for number, [example] in zip(share, images, strict=True):
            if stop.reason:
                raise PreemptedError(
                    f"Stopped by {stop.reason} after {progress.done} of {len(share)} images. The "
                    "same command detects in all of them, without training again."
                )
            image_id = scenes.scenes[number].image_id
            own.append(as_results(image_id, detector.detect(example), scenes))
            progress.show({})
    by_scene = distributed.gather_dealt_objects(own)
    assert len(by_scene) == len(scenes), f"{len(by_scene)} of {len(scenes)} scenes"
    results = [result for each in by_scene for result in each]
    if rank == 0:
        write_text(work_dir / DETECTIONS, json.dumps(results))
    return results


def _restore(
    detector: Detector, identity: Mapping[str, Any], work_dir: Path
) -> dict[str, Any] | None:
    """Fill the detector from the same run's ``work_dir/model.pth``, and return that run's details.

    None where there is none, or it is another run's.
    """
    path = work_dir / WEIGHTS
    found = torch.tensor(int(path.exists()), device=next(detector.parameters()).device)
    if not int(distributed.broadcast(found)):
        return None
    content = torch.load(path, map_location="cpu", weights_only=True)
    trained = content.get("trained", {})
    if trained.get("run") != json.loads(json.dumps(identity)):
        return None
    detector.load_state_dict(content["state_dict"])
    if distributed.rank() == 0:
        print(f"{path} holds the trained detector.", flush=True)
    details: dict[str, Any] = trained["details"]
    return details


class _TestImages(Dataset[Example]):
    def __init__(self, scenes: SceneSplit, recipe: Recipe) -> None:
        self.scenes = scenes
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Example:
        return image_of(self.scenes.scenes[index], self.recipe)


def _fingerprint(scenes: SceneSplit) -> str:
    """A hash of what is trained on but the pixels: images, boxes and classes."""
    digest = hashlib.blake2b(digest_size=8)
    for scene in scenes.scenes:
        digest.update(f"{scene.image_id} {scene.path.name} {scene.size}".encode())
        for part in (scene.boxes, scene.labels, scene.crowd):
            digest.update(part.tobytes())
    return digest.hexdigest()


def keep_weights(detector: Detector, work_dir: Path) -> None:
    """Put the trained detector into ``work_dir/model.pth`` in the place of its checkpoints.

    Under ``model`` are its weights, which Detectron2's own checkpointer loads if they are of its
    engine; under ``trained``, how they came about. In a run of several processes each makes this
    call.
    """

    def content() -> dict[str, Any]:
        # Tensors that two names share are written once.
        return {
            "model": detector.weights(),
            "state_dict": dict(detector.state_dict()),
            "trained": json.loads((work_dir / TRAINED).read_text()),
        }

    replace_checkpoints(work_dir, content, device=next(detector.parameters()).device)


def replace_checkpoints(
    work_dir: Path, content: Callable[[], dict[str, Any]], *, device: torch.device
) -> None:
    """Put ``content`` into ``work_dir/model.pth`` and remove the checkpoints, on rank 0.

    In a run of several processes each makes this call, with where its tensors lie.
    """
    # Not before every rank has read what it needs.
    distributed.total(torch.zeros(1, device=device))
    if distributed.rank() == 0:
        with atomic_file(work_dir / WEIGHTS) as file:
            torch.save(content(), file)
        shutil.rmtree(work_dir / FOLDER, ignore_errors=True)


@contextmanager
def _draws_keyed_by(key: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for the block; outside of it they go on as if it had not been."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(key)
        yield
