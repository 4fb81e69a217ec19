"""The estimate of memory: numbers by hand, and a measured peak of a real step."""

import dataclasses

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import build_network
from moco_eval.engines import memory
from moco_eval.engines.examples import Example
from moco_eval.engines.memory import estimate
from moco_eval.engines.recipes import RECIPES
from moco_eval.engines.torchvision import build

VIT = "timm:vit_tiny_patch16_224:depth=2,embed_dim=64,img_size=64,num_heads=2"
HEIGHT, WIDTH = 128, 192


def recipe_of(detector="fpn", **more):
    numbers = {
        "detector": detector,
        "short_sides_train": (96, HEIGHT),
        "max_side": WIDTH,
        "rpn_post_nms": (200, 200),
        "roi_batch": 32,
        "box_fcs": 1,
    }
    return dataclasses.replace(RECIPES["small-fpn"], **numbers | more)


@pytest.fixture(scope="module")
def encoder_of():
    def make(arch):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build_network(arch)
        spec = InputSpec(size=64)
        manifest = Manifest(source=arch, format="t", tower="", arch=arch, input=spec, num_loaded=0)
        return Encoder(network, manifest)

    return make


def example(seed):
    boxes = torch.tensor([[8.0, 8, 40, 40], [60, 30, 150, 100]])
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 8:40, 8:40] = masks[1, 30:100, 60:150] = True
    draw = torch.Generator().manual_seed(seed)
    return Example(
        pixels=torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=draw),
        size=(HEIGHT, WIDTH),
        boxes=boxes,
        labels=torch.tensor([0, 1]),
        masks=masks,
    )


def measured_peak(encoder, recipe, num_images):
    """Bytes that the second step of training adds at most, by torch's log of allocations."""
    torch.manual_seed(0)
    detector = build(encoder, recipe, num_classes=80).train()
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-4, momentum=0.9)
    examples = [example(seed) for seed in range(num_images)]

    def step():
        torch.stack(list(detector(examples).values())).sum().backward()
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=False)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        step()
    events = [e for e in log.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    # What is there before the step is not in it: weights, gradients, the optimizer's states.
    return peak


@pytest.mark.parametrize(
    ("arch", "recipe"),
    [
        ("resnet18", recipe_of("c4", masks=True)),
        ("resnet18", recipe_of("fpn", masks=True)),
        ("resnet18", recipe_of("retinanet")),
        (VIT, recipe_of("fpn")),
        ("resnet18", recipe_of("fpn", freeze="encoder")),
    ],
)
def test_the_estimate_is_near_a_measured_peak(encoder_of, arch, recipe):
    encoder = encoder_of(arch)
    found = estimate(encoder, recipe, batch_per_device=2)
    assert found.image == (HEIGHT, WIDTH)
    beyond = found.activations + found.workspace
    assert beyond / measured_peak(encoder, recipe, 2) == pytest.approx(1, abs=0.25)


def test_weights_gradients_and_optimizer_are_those_of_the_detector(encoder_of):
    encoder = encoder_of("resnet10_small")
    for more, states in (
        ({}, 1),
        ({"optimizer": "adamw"}, 2),
        ({"sgd_momentum": 0.0}, 0),
        ({"freeze": "encoder"}, 1),
        ({"freeze": "norms"}, 1),
    ):
        recipe = recipe_of("c4", **more)
        detector = build(encoder, recipe, num_classes=80)
        found = estimate(encoder, recipe, batch_per_device=1)
        trained = sum(4 * p.numel() for p in detector.parameters() if p.requires_grad)
        assert found.gradients == trained
        assert found.optimizer == states * trained
        # Counters of BatchNorm's steps have eight bytes.
        assert found.weights == sum(t.nbytes for t in detector.state_dict().values())


@pytest.mark.parametrize("detector", ["c4", "dc5", "fpn", "retinanet"])
def test_twice_the_images_keep_twice_the_activations(encoder_of, detector):
    encoder = encoder_of("resnet10_small")
    one, four = (
        estimate(encoder, recipe_of(detector), batch_per_device=n).activations for n in (1, 4)
    )
    # All but the statistics of norms.
    assert four / one == pytest.approx(4, rel=1e-2)


def test_what_one_convolution_keeps_is_counted_once():
    # By hand: a convolution keeps its input and its weight, which is no activation; an inplace ReLU
    # its output, which is the convolution's.
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(inplace=True)).to("meta")
    with memory._counting(layers) as kept:
        layers(torch.empty(2, 3, 10, 20, device="meta"))
    assert sorted(size for _, size in kept.values()) == [
        2 * 3 * 10 * 20 * 4,
        2 * 8 * 10 * 20 * 4,
    ]


def test_a_frozen_encoder_keeps_nothing(encoder_of):
    encoder = encoder_of("resnet18")
    trained, frozen = (
        estimate(encoder, recipe_of("fpn", freeze=freeze), batch_per_device=1)
        for freeze in ("none", "encoder")
    )
    # Its stem alone keeps its output for its norm, 64 channels on every second pixel.
    assert trained.activations - frozen.activations > 64 * (HEIGHT // 2) * (WIDTH // 2) * 4


def test_detectron2s_attention_is_kept(encoder_of):
    encoder = encoder_of(VIT)
    fused, plain = (
        estimate(encoder, recipe_of("fpn"), batch_per_device=3, engine=engine).activations
        for engine in ("torchvision", "detectron2")
    )
    # 8 x 12 patches of 16 pixels. In 2 blocks of 2 heads a matrix, and four copies of 64 channels.
    tokens = 8 * 12
    assert plain - fused == 2 * 3 * 4 * (2 * tokens**2 + 4 * tokens * 64)


@pytest.mark.parametrize(
    ("more", "num_images", "image"),
    [
        ({}, 1, (128, 192)),
        ({"max_side": 200}, 2, (128, 224)),
        # Wide ones and tall ones in one batch.
        ({"group_by_aspect": False}, 1, (128, 192)),
        ({"group_by_aspect": False}, 2, (192, 192)),
        ({"jitter": (0.1, 2.0)}, 1, (192, 192)),
        ({"max_side": 90}, 1, (96, 96)),
    ],
)
def test_the_largest_image_is_what_the_recipe_says(encoder_of, more, num_images, image):
    recipe = recipe_of("fpn", **more)
    assert estimate(encoder_of("resnet18"), recipe, batch_per_device=num_images).image == image


def test_advice_is_given_where_it_does_not_fit_and_said(encoder_of):
    encoder = encoder_of("resnet18")
    fits = estimate(encoder, recipe_of(), batch_per_device=2, free=100 * 2**30)
    assert not fits.advice
    assert str(fits).endswith("gradients and optimizer; 100.0 GiB are free.")
    found = estimate(encoder, recipe_of(), batch_per_device=2, free=fits.total - 1)
    for field in ("batch_total", f"max_side than {WIDTH}", f"than {HEIGHT}", "roi_batch than 32"):
        assert field in found.advice
    assert str(found).startswith("Training takes about ")
    assert "for 2 images of up to 128x192 pixels" in str(found)
    assert str(found).endswith(found.advice)
    # As many bytes as there are do fit.
    assert not estimate(encoder, recipe_of(), batch_per_device=2, free=fits.total).advice
    assert found.as_dict()["total"] == found.total


def test_the_encoder_stays_where_it_is_and_nothing_is_drawn(encoder_of):
    encoder = encoder_of("resnet10_small")
    before, state = encoder.tensor_sha256(), torch.get_rng_state()
    estimate(encoder, recipe_of(), batch_per_device=1)
    assert encoder.device.type == "cpu"
    assert encoder.tensor_sha256() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_ranks_need_not_wait_for_each_other(encoder_of, monkeypatch):
    monkeypatch.setattr("moco_eval.distributed.world_size", lambda: 2)
    recipe = recipe_of("c4")
    alone = estimate(encoder_of("resnet10_small"), recipe, batch_per_device=1)
    assert alone.activations > 0
