"""The gate on both engines: what is let through, and what is refused with its reason."""

import dataclasses
import functools

import pytest
import torch

from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import build_network
from moco_eval.engines.gate import check_backbone
from moco_eval.engines.recipes import RECIPES
from moco_eval.engines.torchvision import build
from moco_eval.errors import CheckpointError

SPEC = InputSpec(size=64, mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.1))
ARCHS = ["resnet10_small", "resnet18", "resnet50"]
KINDS = ["c4", "dc5", "fpn", "retinanet"]


@functools.lru_cache(maxsize=1)
def encoder_of(arch, seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(arch)
        network.train()(torch.randn(4, 3, 64, 64))
    manifest = Manifest(source=arch, format="t", tower="", arch=arch, input=SPEC, num_loaded=0)
    return Encoder(network, manifest)


def detector_of(encoder, kind="c4"):
    recipe = dataclasses.replace(
        RECIPES["small-fpn"], detector=kind, pool_size=7, rpn_post_nms=(20, 20)
    )
    return build(encoder, recipe, num_classes=2)


@pytest.fixture(scope="module")
def pixels():
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["resnet10_small", "resnet50"])
def test_every_detector_holds_the_encoder(arch, kind, pixels):
    encoder = encoder_of(arch)
    proof = check_backbone(detector_of(encoder, kind), encoder, pixels)
    counted = [name for name in encoder.tensors() if not name.endswith("num_batches_tracked")]
    assert proof.num_tensors == len(counted)
    levels = {"c4": ["res4", "res5"], "dc5": ["res2", "res3", "res4"]}
    assert list(proof.difference_by_level) == levels.get(kind, ["res2", "res3", "res4", "res5"])
    assert max(proof.difference_by_level.values()) < 1e-6


@pytest.mark.parametrize("arch", ARCHS)
def test_a_stride_in_the_other_convolution_is_told(arch, pixels):
    encoder = encoder_of(arch)
    detector = detector_of(encoder)
    for name in ("layer2", "layer3", "layer4"):
        block = getattr(detector.body.network, name)[0]
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    with pytest.raises(CheckpointError, match=r"(?s)res4: off by .*in the other convolution"):
        check_backbone(detector, encoder, pixels)


@pytest.mark.parametrize(
    ("fed", "reason"),
    [
        ({"channel_order": "BGR"}, "is fed BGR with the mean and std of RGB"),
        (
            {"channel_order": "BGR", "mean": SPEC.mean[::-1], "std": SPEC.std[::-1]},
            "is fed BGR, the encoder RGB",
        ),
        ({"mean": tuple(v / 255 for v in SPEC.mean)}, "takes pixels of 0 to 1 for pixels of 0 to"),
        ({"mean": (0.5, 0.5, 0.5)}, "or mean and std are others"),
    ],
)
@pytest.mark.parametrize("arch", ARCHS)
def test_other_colours_are_told(arch, fed, reason, pixels):
    encoder = encoder_of(arch)
    detector = detector_of(encoder)
    detector.input = dataclasses.replace(SPEC, **fed)
    with pytest.raises(CheckpointError, match=reason):
        check_backbone(detector, encoder, pixels)


@pytest.mark.parametrize("arch", ARCHS)
def test_one_number_of_one_tensor_is_seen(arch, pixels):
    encoder = encoder_of(arch)
    detector = detector_of(encoder)
    with torch.no_grad():
        detector.body.network.layer4[0].bn2.running_var[-1] *= 1.0001
    with pytest.raises(CheckpointError, match=r"1 differ:\n  different: layer4.0.bn2.running_var"):
        check_backbone(detector, encoder, pixels)


@pytest.mark.parametrize("arch", ARCHS)
def test_an_encoder_that_never_arrived_is_seen(arch, pixels):
    encoder = encoder_of(arch)
    detector = detector_of(encoder)
    fresh = build_network(arch)
    detector.body.network.load_state_dict(fresh.state_dict())
    with pytest.raises(CheckpointError, match=r"Not one of .* layers has .*: nothing was loaded"):
        check_backbone(detector, encoder, pixels)


@pytest.mark.parametrize("arch", ARCHS)
def test_an_encoder_of_which_half_arrived_is_seen(arch, pixels):
    encoder = encoder_of(arch)
    detector = detector_of(encoder)
    own = encoder.tensors()
    half = dict(list(build_network(arch).state_dict().items())[len(own) // 2 :])
    detector.body.network.load_state_dict(own | half)
    layers = [name for name, tensor in own.items() if tensor.dim() > 1]
    arrived = len([name for name in layers if name not in half])
    assert 0 < arrived < len(layers)
    with pytest.raises(CheckpointError, match=rf"{arrived} of {len(layers)} layers have the enc"):
        check_backbone(detector, encoder, pixels)


def test_both_lists_are_shown_and_what_is_more_is_counted(pixels):
    encoder = encoder_of("resnet10_small")
    detector = detector_of(encoder)
    tensors = detector.backbone()
    renamed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    detector.backbone = lambda: renamed
    with pytest.raises(CheckpointError) as caught:
        check_backbone(detector, encoder, pixels)
    text = str(caught.value)
    # 12 convolutions, each followed by a norm of four tensors; the counters do not count.
    number = len([name for name in tensors if not name.endswith("num_batches_tracked")])
    assert "  missing: conv1.weight\n" in text
    assert "  not the encoder's: module.conv1.weight\n" in text
    assert f"  missing: {number - 8} more\n" in text
    assert f"  not the encoder's: {number - 8} more\n" in text
    assert caught.value.exit_code == 2


def test_a_manifest_that_names_another_stride_is_refused(pixels):
    # Of the same tensors: Caffe's ResNet has its stride in the 1x1 convolution.
    encoder = encoder_of("resnet50")
    manifest = dataclasses.replace(encoder.manifest, arch="resnet50_v1")
    contradictory = Encoder(encoder.network, manifest)
    detector = detector_of(contradictory)
    with pytest.raises(
        CheckpointError, match=r"(?s)not the resnet50_v1 .*stride of layer2.0.conv1"
    ):
        check_backbone(detector, contradictory, pixels)
    adapted = dataclasses.replace(manifest, adapted=("strides moved",))
    assert check_backbone(detector, Encoder(encoder.network, adapted), pixels)


def test_a_manifest_of_another_width_is_refused(pixels):
    encoder = encoder_of("resnet10_small")
    manifest = dataclasses.replace(encoder.manifest, arch="resnet18")
    contradictory = Encoder(encoder.network, manifest)
    with pytest.raises(CheckpointError, match=r"bn1.weight is \[\d+\], not \[64\]"):
        check_backbone(detector_of(contradictory), contradictory, pixels)
