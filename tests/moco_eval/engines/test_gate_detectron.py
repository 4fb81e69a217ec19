"""MoCo's checkpoints, converted and loaded by Detectron2's own checkpointer: the gate judges."""

import dataclasses
import gc

import pytest
import torch

from moco_eval.convert import convert
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.networks import build_network
from moco_eval.engines.gate import check_backbone
from moco_eval.engines.recipes import RECIPES
from moco_eval.errors import CheckpointError

pytestmark = [
    pytest.mark.detectron2,
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]
# Each of another detector, so that all places of a backbone are seen.
ARCHS = {
    "resnet18": "fpn",
    "resnet50": "c4",
    "resnet101": "fpn",
    "resnext50_32x4d": "retinanet",
    "resnet50_w2x": "dc5",
}


def write_moco(path, arch):
    """A checkpoint as main_moco.py writes it. Norms are fresh but for one mean."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = build_network(arch)
    network.bn1.running_mean.fill_(0.01)
    state = network.state_dict()
    projector = {"fc.0.weight": torch.zeros(2, 2), "fc.2.weight": torch.zeros(2, 2)}
    tensors = {f"module.encoder_q.{name}": tensor for name, tensor in (state | projector).items()}
    # Of the same memory: the file need not be twice as large.
    tensors |= {name.replace("_q", "_k", 1): tensor for name, tensor in tensors.items()}
    queue = {"module.queue": torch.zeros(2, 4), "module.queue_ptr": torch.zeros(1).long()}
    content = {"epoch": 200, "arch": arch, "state_dict": tensors | queue, "optimizer": {}}
    torch.save(content, path)


@pytest.fixture(scope="module", params=ARCHS)
def case(request, tmp_path_factory):
    """An encoder, its converted tensors, the file's path, and a detector of Detectron2's."""
    from moco_eval.engines import detectron

    folder = tmp_path_factory.mktemp(request.param)
    write_moco(folder / "moco.pth.tar", request.param)
    encoder = load_encoder(str(folder / "moco.pth.tar"), arch=request.param)
    path = folder / "converted.pth"
    convert(encoder, path, "detectron2")
    recipe = dataclasses.replace(
        RECIPES["small-fpn"],
        detector=ARCHS[request.param],
        pool_size=7,
        opts=()
        if ARCHS[request.param] in ("c4", "retinanet")
        else ("MODEL.ROI_BOX_HEAD.FC_DIM=8",),
    )
    detector = detectron.build(encoder, recipe, num_classes=2)
    yield encoder, path, detector
    for file in folder.iterdir():
        file.unlink()
    del encoder, detector
    gc.collect()


@pytest.fixture(scope="module")
def pixels():
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=draw)


def load_into(detector, path, change=None):
    """What Detectron2's checkpointer makes of a file, in a backbone as if freshly built."""
    from detectron2.checkpoint import DetectionCheckpointer

    fresh = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for place, tensor in detector.model.state_dict().items():
            if place in detector.names and tensor.is_floating_point():
                if tensor.dim() > 1:
                    tensor.normal_(std=0.01, generator=fresh)
                else:
                    tensor.fill_(float(place.endswith(("norm.weight", "running_var"))))
    if change is not None:
        content = torch.load(path, weights_only=True)
        content["model"] = change(content["model"])
        path = path.with_name("changed.pth")
        torch.save(content, path)
    DetectionCheckpointer(detector.model).load(str(path))


def test_the_converted_checkpoint_passes(case, pixels):
    encoder, path, detector = case
    load_into(detector, path)
    proof = check_backbone(detector, encoder, pixels)
    counted = [name for name in encoder.tensors() if not name.endswith("num_batches_tracked")]
    assert proof.num_tensors == len(counted)
    assert max(proof.difference_by_level.values()) < 1e-5


def test_a_stride_in_the_other_convolution_is_refused(case, pixels):
    encoder, path, detector = case
    load_into(detector, path)
    blocks = [m for m in detector.model.modules() if hasattr(m, "conv2") and m.stride == 2]
    assert len(blocks) >= 2

    def swap():
        for block in blocks:
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride

    swap()
    try:
        with pytest.raises(CheckpointError, match="in the other convolution than the encoder's"):
            check_backbone(detector, encoder, pixels)
    finally:
        swap()


def test_colours_turned_round_are_refused(case, pixels):
    encoder, path, detector = case
    load_into(detector, path)
    detector.cfg.INPUT.FORMAT = "BGR"
    try:
        with pytest.raises(CheckpointError, match="is fed BGR with the mean and std of RGB"):
            check_backbone(detector, encoder, pixels)
    finally:
        detector.cfg.INPUT.FORMAT = "RGB"


def test_one_changed_tensor_is_refused(case, pixels):
    encoder, path, detector = case

    def change(tensors):
        return tensors | {"res4.0.conv2.weight": tensors["res4.0.conv2.weight"] * 1.001}

    load_into(detector, path, change)
    with pytest.raises(CheckpointError, match=r"1 differ:\n  different: layer3.0.conv2.weight\n"):
        check_backbone(detector, encoder, pixels)


def test_another_authors_prefix_is_refused(case, pixels):
    encoder, path, detector = case
    load_into(detector, path, lambda tensors: {f"encoder.{n}": t for n, t in tensors.items()})
    # Of MoCo's tensors many are those of fresh norms, which are there without being loaded.
    with pytest.raises(CheckpointError, match=r"Not one of \d+ layers .*: nothing was loaded"):
        check_backbone(detector, encoder, pixels)


def test_half_of_the_tensors_is_refused(case, pixels):
    encoder, path, detector = case
    load_into(detector, path, lambda tensors: dict(list(tensors.items())[: len(tensors) // 2]))
    with pytest.raises(CheckpointError, match=r"different: (?s:.*)[1-9]\d* of \d+ layers have the"):
        check_backbone(detector, encoder, pixels)
