"""How much memory training a detector takes, known before it starts.

The detector is built of torchvision's parts on torch's meta device, where nothing is computed and
nothing allocated, and run on the recipe's largest training image: what autograd would keep for the
backward pass is counted tensor by tensor. Both engines build the same layers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision import build
from moco_eval.engines.torchvision.c4 import C4Detector
from moco_eval.engines.torchvision.pooled import SHAPE_SIZE, PooledDetector
from moco_eval.engines.torchvision.rcnn import RCNN
from moco_eval.engines.torchvision.retinanet import RetinaNetDetector
from moco_eval.engines.transformer import is_plain

GIB = 2**30
# COCO's, where nobody says how many.
NUM_CLASSES, NUM_KEYPOINTS = 80, 17
# A quarter of the regions that heads are trained on are objects.
OBJECTS = 4
# A focal loss keeps the logits, their sigmoid, what its terms are made of, and their gradients: so
# many was measured.
FOCAL_COPIES = 12
# Detectron2's attention keeps queries, keys and values apart, and scaled queries.
TOKEN_COPIES = 4
# The gradient of the largest tensor that is kept, and what it is computed from.
IN_FLIGHT = 2


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on each device.

    Attributes:
        weights: Parameters and buffers, trained and frozen.
        gradients: Of what is trained.
        optimizer: What the optimizer keeps of it.
        activations: What is kept from the forward pass for the backward pass.
        workspace: What a layer needs while it computes its gradient.
        image: Height and width of the largest training images, padded.
        batch_per_device: So many of them at once.
        free: What the device has; None where nobody knows.
        device_type: ``cuda`` or ``cpu``.
        advice: What to change where that is less; empty where it fits.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    image: tuple[int, int]
    batch_per_device: int
    free: int | None = None
    device_type: str = "cpu"
    advice: str = ""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.workspace

    def as_dict(self) -> dict[str, Any]:
        """For a record, in bytes."""
        return asdict(self) | {"total": self.total}

    def __str__(self) -> str:
        height, width = self.image
        images = f"{self.batch_per_device} image{'s' * (self.batch_per_device > 1)}"
        free = "" if self.free is None else f"; {_gib(self.free)} are free"
        return (
            f"Training takes about {_gib(self.total)} on each device, for {images} of up to "
            f"{height}x{width} pixels: {_gib(self.activations)} activations, "
            f"{_gib(self.weights + self.gradients + self.optimizer)} weights, gradients and "
            f"optimizer{free}.{' ' * bool(self.advice)}{self.advice}"
        )


def estimate(  # noqa: PLR0913 - what is trained, on what, and where
    encoder: Encoder,
    recipe: Recipe,
    *,
    batch_per_device: int,
    num_classes: int = NUM_CLASSES,
    num_keypoints: int = NUM_KEYPOINTS,
    engine: str = "torchvision",
    free: int | None = None,
) -> MemoryEstimate:
    """What one device needs for a training step, in the precision of the weights.

    Not counted: the libraries' own code and fragments, up to a GiB on a GPU.

    Args:
        encoder: Stays as it is, where it is.
        recipe: Its largest training image is looked at.
        batch_per_device: Images of one device's step.
        num_classes: Without the background.
        num_keypoints: Of each object, where the recipe has keypoints.
        engine: Detectron2's transformers keep each block's attention, timm's compute it anew.
        free: Bytes; those of the encoder's device if left out.

    Raises:
        UsageError: If the recipe does not fit the encoder.
    """
    detector: Any = _on_meta(encoder, recipe, num_classes, num_keypoints)
    height, width = _largest_image(recipe, batch_per_device, detector.body.multiple)
    images = torch.empty(batch_per_device, 3, height, width, device="meta")
    with _counting(detector) as kept:
        maps = list(detector.body(images).values())
        logits = _run_heads(detector, recipe, maps, batch_per_device)
    sizes = [num_bytes for _, num_bytes in kept.values()]
    if is_plain(encoder):
        sizes = _without_attention(detector.body.network.blocks, images, kept)
        if engine == "detectron2" and recipe.freeze != "encoder":
            sizes += _own_attention(detector.body.network, images)
    weights = [_size(p) for p in detector.parameters() if p.requires_grad]
    trained = sum(weights)
    states = {"adamw": 2, "sgd": int(recipe.sgd_momentum > 0)}[recipe.optimizer]
    found = MemoryEstimate(
        weights=sum(_size(each) for each in detector.state_dict().values()),
        gradients=trained,
        optimizer=states * trained,
        activations=sum(sizes) + logits,
        # A weight's gradient is there before it is added to what the layer has.
        workspace=max(IN_FLIGHT * max(sizes, default=0), *weights),
        image=(height, width),
        batch_per_device=batch_per_device,
        free=free_memory(encoder.device) if free is None else free,
        device_type=encoder.device.type,
    )
    return _advised(found, recipe)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, or for this process on the machine; None where nobody knows."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    numbers = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}
    return int(numbers["MemAvailable"]) * 1024 if "MemAvailable" in numbers else None


# By storage the shape of the first tensor on it, and its bytes.
_Kept = dict[int, tuple[tuple[int, ...], int]]


def _on_meta(encoder: Encoder, recipe: Recipe, num_classes: int, num_keypoints: int) -> nn.Module:
    """The recipe's detector without memory, ready to be trained; ranks do not wait for it."""
    network = copy.deepcopy(encoder.network).to("meta")
    with torch.device("meta"):
        detector = build(
            Encoder(network, encoder.manifest),
            recipe,
            num_classes=num_classes,
            num_keypoints=num_keypoints,
        )
        for name, module in list(detector.named_modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                detector.set_submodule(name, _alone(module))
    return detector.train()


def _alone(norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    """What keeps as much as BatchNorm over all ranks, and asks none of them."""
    if type(norm).__name__ not in ("SyncBatchNorm", "_CpuSyncBatchNorm"):
        return norm
    return nn.BatchNorm2d(norm.num_features)


@contextmanager
def _counting(detector: nn.Module) -> Iterator[_Kept]:
    """What is kept for the backward pass, each storage once, without the detector's own weights."""
    own = {each.untyped_storage()._cdata for each in detector.state_dict().values()}
    kept: _Kept = {}
    alive: list[Any] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in kept:
            kept[storage._cdata] = (tuple(tensor.shape), storage.nbytes())
            # So that no other storage gets its number.
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _run_heads(detector: nn.Module, recipe: Recipe, maps: list[Tensor], num_images: int) -> int:
    """Run every head on as many regions as it is trained on; bytes of a focal loss come back."""
    if isinstance(detector, RetinaNetDetector):
        outputs = detector.head(maps)
        return FOCAL_COPIES * _size(outputs["cls_logits"])
    assert isinstance(detector, RCNN), f"A {type(detector).__name__} has other heads."
    detector.rpn.head(maps)
    regions = _regions(detector, maps[0], num_images * recipe.roi_batch, recipe.pool_size)
    features = detector.box_features(regions)
    detector.class_logits(features)
    detector.box_deltas(features)
    num_objects = num_images * (recipe.roi_batch // OBJECTS)
    if isinstance(detector, PooledDetector):
        shapes = _pooled(maps[0], num_objects, SHAPE_SIZE)
    else:
        shapes = regions[:num_objects]
    for head in (detector.mask_head, detector.keypoint_head):
        if head is not None:
            head(shapes)
    return 0


def _regions(detector: RCNN, features: Tensor, number: int, side: int) -> Tensor:
    pooled = _pooled(features, number, side)
    if not isinstance(detector, C4Detector):
        return pooled
    regions: Tensor = detector.extra_norm(detector.body.res5(pooled))
    return regions


def _pooled(features: Tensor, number: int, side: int) -> Tensor:
    # Pooling itself keeps nothing but the boxes; what is pooled has a gradient if the maps have.
    pooled = features.new_empty(number, features.shape[1], side, side)
    return pooled.requires_grad_(features.requires_grad)


def _without_attention(blocks: Any, images: Tensor, kept: _Kept) -> list[int]:
    """The sizes without the blocks' matrices of attention.

    Fused attention has none, but without memory torch takes the plain computation.
    """
    num_heads = len(images) * blocks[0].attn.num_heads

    def is_matrix(shape: tuple[int, ...]) -> bool:
        return len(shape) > 2 and shape[-1] == shape[-2] and math.prod(shape[:-2]) == num_heads

    return [num_bytes for shape, num_bytes in kept.values() if not is_matrix(shape)]


def _own_attention(network: Any, images: Tensor) -> list[int]:
    """What each block of Detectron2's keeps besides, in bytes."""
    patches = network.patch_embed.proj(images)
    num_images, width, *grid = patches.shape
    tokens, heads = math.prod(grid), network.blocks[0].attn.num_heads
    size: int = patches.element_size()
    matrix = num_images * heads * tokens**2 * size
    copies = TOKEN_COPIES * num_images * tokens * width * size
    return [each for _ in network.blocks for each in (matrix, copies)]


def _largest_image(recipe: Recipe, num_images: int, multiple: int) -> tuple[int, int]:
    """Height and width of the largest batch, padded: wide images, or wide and tall ones."""
    short, long = min(max(recipe.short_sides_train), recipe.max_side), recipe.max_side
    if recipe.jitter or (num_images > 1 and not recipe.group_by_aspect):
        short = long
    return -(-short // multiple) * multiple, -(-long // multiple) * multiple


def _advised(found: MemoryEstimate, recipe: Recipe) -> MemoryEstimate:
    if found.free is None or found.total <= found.free:
        return found
    changes = []
    if found.batch_per_device > 1:
        changes.append("more devices, or a smaller batch_total with lr in proportion")
    side = max(recipe.short_sides_train)
    changes.append(f"a smaller max_side than {recipe.max_side} and short_sides_train than {side}")
    if recipe.detector != "retinanet":
        changes.append(f"a smaller roi_batch than {recipe.roi_batch}")
    if recipe.freeze != "encoder":
        changes.append("freeze=encoder, which is another protocol")
    advice = f"That does not fit. Take by --set {'; '.join(changes)}."
    return replace(found, advice=advice)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.0f} MiB"
