"""torchvision's engine: each detector around an encoder, what is trained, frozen and refused."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moco_eval import distributed
from moco_eval.data.images import DIGITS_INPUT, InputSpec, normalize
from moco_eval.engines import torchvision as engine
from moco_eval.engines.examples import Example
from moco_eval.engines.gate import check_backbone
from moco_eval.engines.recipes import RECIPES
from moco_eval.errors import CheckpointError, UsageError

SMALL_SWIN = (
    "timm:swin_tiny_patch4_window7_224:strict_img_size=false,"
    "embed_dim=24,depths=[1,1,2,1],num_heads=[1,1,1,1]"
)
FIVE = (8, 16, 32, 64, 128)
RECIPE = dataclasses.replace(
    RECIPES["digits-c4"],
    # All anchors, so that each level counts.
    rpn_batch=20_000,
    roi_batch=16,
    pool_size=3,
    rpn_pre_nms=(40, 40),
    rpn_post_nms=(20, 20),
    mask_channels=8,
)
KINDS = {
    "c4": {"masks": True, "anchor_sizes": (16, 32, 64)},
    "dc5": {"masks": True, "anchor_sizes": (16, 32, 64), "mask_convs": 1},
    "fpn": {"masks": True, "anchor_sizes": FIVE, "mask_convs": 1, "head_norm": True},
    "retinanet": {"anchor_sizes": FIVE},
}


def recipe_of(detector, **more):
    return dataclasses.replace(RECIPE, detector=detector, **KINDS[detector] | more)


def build(encoder, recipe, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return engine.build(encoder, recipe, **{"num_classes": 2} | more)


def noise(height=48, width=64):
    draw = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=draw)


def make_example(height=48, width=64, **more):
    boxes = torch.tensor([[4.0, 5.0, 24.0, 29.0], [36.0, 10.0, 52.0, 30.0]])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 5:29, 4:24] = masks[1, 10:30, 36:52] = True
    labels = torch.tensor([0, 1])
    pixels = noise(height, width)
    values = {"pixels": pixels, "size": (height, width), "boxes": boxes, "labels": labels}
    return Example(**values | {"masks": masks} | more)


def step(detector, examples, lr=0.1):
    """One update; the losses it was made with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        losses = detector.train()(examples)
        sum(losses.values()).backward()
    trained = [weight for weight in detector.parameters() if weight.requires_grad]
    torch.optim.SGD(trained, lr=lr).step()
    return losses


def still_of(detector, before):
    """What has no gradient, and the buffers that are what they were."""
    weights = dict(detector.named_parameters())
    still = {name for name, each in weights.items() if each.grad is None or not each.grad.any()}
    state = detector.state_dict()
    return still | {name for name in state.keys() - weights if state[name].equal(before[name])}


def snapshot(detector):
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


@pytest.mark.parametrize(
    ("detector", "arch"),
    [*((name, "resnet10_small") for name in KINDS), ("c4", "resnet18"), ("fpn", "resnet18")],
)
def test_the_gate_passes_each_detector(make_encoder, detector, arch):
    encoder = make_encoder(arch, InputSpec(size=64, channel_order="BGR", mean=(0.1, 0.2, 0.3)))
    built = build(encoder, recipe_of(detector))
    check_backbone(built, encoder, noise())
    levels = {"c4": ["res4", "res5"], "dc5": ["res2", "res3", "res4"]}
    every = ["res2", "res3", "res4", "res5"]
    assert list(built.levels(noise())) == levels.get(detector, every)
    # A stride in another place: every tensor and every shape still fits.
    blocks = built.body.network.layer3[0]
    blocks.conv1.stride, blocks.conv2.stride = (1, 1), (2, 2)
    with pytest.raises(CheckpointError, match="features at res4: off by"):
        check_backbone(built, encoder, noise())


@pytest.mark.parametrize("detector", KINDS)
def test_one_update_moves_everything(make_encoder, detector):
    encoder = make_encoder()
    built = build(encoder, recipe_of(detector))
    before = snapshot(built)
    losses = step(built, [make_example(), make_example(40, 56, masks=make_example().masks)])
    heads = {"loss_rpn_cls", "loss_rpn_loc", "loss_mask"} if detector != "retinanet" else set()
    assert set(losses) == heads | {"loss_cls", "loss_box_reg"}
    assert still_of(built, before) == set()
    assert encoder.tensors()["bn1.weight"].equal(before["body.network.bn1.weight"])


@pytest.mark.parametrize("detector", KINDS)
def test_frozen_norms_stay_and_all_else_moves(make_encoder, detector):
    encoder = make_encoder()
    built = build(encoder, recipe_of(detector, freeze="norms"))
    check_backbone(built, encoder, noise())
    before = snapshot(built)
    step(built, [make_example(), make_example()])
    still = still_of(built, before)
    norms = {f"body.network.{name}" for name in encoder.tensors() if "bn" in name}
    norms |= {f"body.network.{name}" for name in encoder.tensors() if "downsample.1." in name}
    assert still == {name for name in norms if "num_batches_tracked" not in name}
    assert not any("bn" in name for name, _ in built.named_parameters() if "network" in name)


@pytest.mark.parametrize("detector", KINDS)
def test_a_frozen_encoder_stays_whole(make_encoder, detector):
    # Dropout too is for training alone.
    encoder = make_encoder()
    built = build(encoder, recipe_of(detector, freeze="encoder"))
    before = snapshot(built)
    step(built, [make_example(), make_example()])
    still = still_of(built, before)
    assert still == {name for name in before if name.startswith("body.network.")}
    assert not built.train().body.network.training
    assert built.body.training
    check_backbone(built, encoder, noise())


def test_frozen_norms_of_another_library_keep_their_activations(make_encoder):
    # timm's RegNet has its activations within its norms.
    encoder = make_encoder("timm:regnetx_002")
    built = build(encoder, recipe_of("c4", freeze="norms"))
    check_backbone(built, encoder, noise(96, 96))
    assert not [module for module in built.body.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("detector", ["c4", "fpn", "retinanet"])
@pytest.mark.parametrize(
    "arch", ["timm:resnet18", "timm:regnetx_002", "timm:convnext_atto", SMALL_SWIN]
)
def test_any_network_of_four_stages_is_taken(make_encoder, detector, arch):
    encoder = make_encoder(arch)
    built = build(encoder, recipe_of(detector)).eval()
    # At strides 4 to 32, of what fills no whole patch: 90x120 are padded to 96x128.
    found = built.levels(noise(90, 120))
    expected = encoder.levels(normalize(F.pad(noise(96, 128), (0, 0))[None], encoder.input))
    sizes = {"res2": (24, 32), "res3": (12, 16), "res4": (6, 8), "res5": (3, 4)}
    for level, features in found.items():
        assert features.shape[2:] == sizes[level]
        assert features.shape == expected[level].shape
    check_backbone(built, encoder, noise(96, 128))
    built.detect(make_example())


@pytest.mark.parametrize(
    ("arch", "detector", "strides"),
    [
        ("resnet18", "fpn", {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}),
        ("resnet18", "retinanet", {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}),
        ("resnet10_small", "fpn", {"p1": 2, "p2": 4, "p3": 8, "p4": 16, "p5": 32}),
    ],
)
def test_a_pyramids_levels_are_called_by_their_strides(make_encoder, arch, detector, strides):
    body = build(make_encoder(arch), recipe_of(detector)).eval().body
    assert body.strides == strides
    maps = body(torch.randn(1, 3, 128, 256))
    assert {name: 128 // each.shape[2] for name, each in maps.items()} == strides
    assert all(each.shape[3] == 2 * each.shape[2] for each in maps.values())
    last, before = list(strides)[-1], list(strides)[-2]
    # In the two-stage one every second pixel of the level before; and nothing is pooled from it.
    is_copied = torch.equal(maps[last], maps[before][:, :, ::2, ::2])
    assert is_copied == (detector == "fpn")
    assert body.pooled == tuple(strides)[: 4 if detector == "fpn" else 3]


def test_a_pyramid_has_norms_or_biases(make_encoder):
    with_norms = build(make_encoder(), recipe_of("fpn")).body.pyramid
    without = build(make_encoder(), recipe_of("fpn", pyramid_norm=False)).body.pyramid
    for blocks in (with_norms.inner_blocks, with_norms.layer_blocks):
        assert all(
            block[0].bias is None and isinstance(block[1], nn.BatchNorm2d) for block in blocks
        )
    for blocks in (without.inner_blocks, without.layer_blocks):
        assert all(len(block) == 1 and block[0].bias is not None for block in blocks)


def test_a_dilated_stage_keeps_its_maps_size_and_looks_twice_as_far(make_encoder):
    body = build(make_encoder("resnet50"), recipe_of("dc5")).eval().body
    assert body.strides == {"res5": 16}
    assert body(torch.randn(1, 3, 64, 96))["res5"].shape == (1, 512, 4, 6)
    stage = body.network.layer4
    assert [block.conv2.dilation for block in stage] == [(2, 2)] * 3
    # One pixel of res4 moves the first block's output two pixels away, and none between.
    inputs = torch.zeros(1, 1024, 9, 9)
    inputs[:, :, 4, 4] = 1
    block = stage[0]
    moved = (block.conv2(block.conv1(inputs)) != 0).any(1)[0]
    assert moved.nonzero().tolist() == [[y, x] for y in (2, 4, 6) for x in (2, 4, 6)]


@pytest.mark.parametrize(
    ("arch", "complaint"),
    [
        ("timm:convnext_atto", "is made of a ResNet"),
        # Its shortcut pools by two.
        ("timm:resnet26d", "has AvgPool2d, which a dilated C5 has no counterpart for"),
    ],
)
def test_what_cannot_be_dilated_is_refused(make_encoder, arch, complaint):
    with pytest.raises(UsageError, match=complaint):
        build(make_encoder(arch), recipe_of("dc5"))


def test_a_pyramid_needs_a_size_of_anchors_for_each_map(make_encoder):
    with pytest.raises(UsageError, match=r"has 3 sizes.* p1, p2, p3, p4, p5: --set anchor_sizes="):
        build(make_encoder(), recipe_of("fpn", anchor_sizes=(8, 16, 32)))


def test_a_retinanet_with_norms_in_its_heads_is_refused(make_encoder):
    with pytest.raises(UsageError, match="--engine detectron2"):
        build(make_encoder(), recipe_of("retinanet", head_norm=True))


def test_norms_with_activations_in_them_are_refused_on_several_devices(make_encoder, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(UsageError, match="freeze=norms"):
        build(make_encoder("timm:regnetx_002"), recipe_of("c4"))
    build(make_encoder("timm:regnetx_002"), recipe_of("c4", freeze="norms"))


def step_on(encoder, detector, numbers):
    """The norms of the stem and of the parts beside the encoder after a step, and the divisor."""
    built = build(encoder, recipe_of(detector))
    shifts = (0, 100)
    step(built, [make_example(pixels=noise() // 2 + shifts[number]) for number in numbers])
    state = built.state_dict()
    new = {"c4": "extra_norm", "dc5": "body.reduce.1"}.get(
        detector, "body.pyramid.inner_blocks.0.1"
    )
    stem = state["body.network.bn1.running_mean"]
    return stem, state[f"{new}.running_mean"], state.get("normalizer")


def step_on_rank(encoder, detector):
    return step_on(encoder, detector, [distributed.rank()])


@pytest.mark.parametrize("detector", KINDS)
def test_trained_norms_see_the_images_of_all_ranks(on_ranks, make_encoder, detector):
    encoder = make_encoder()
    stem, new, divisor = step_on(encoder, detector, [0, 1])
    (one, other) = on_ranks(2, step_on_rank, encoder, detector)
    torch.testing.assert_close(one[0], stem)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    if detector != "c4":  # whose norm sees sampled boxes
        torch.testing.assert_close(one[1], new)
    if detector == "retinanet":
        # Each rank has half of the objects: 90 and a tenth of them.
        assert one[2] == other[2] == pytest.approx(90 + (divisor.item() - 90) / 2)


@pytest.mark.parametrize("detector", KINDS)
def test_an_image_may_have_no_detections(make_encoder, detector):
    arch = SMALL_SWIN if detector != "dc5" else "resnet10_small"
    built = build(make_encoder(arch), recipe_of(detector, score_threshold=1.1)).eval()
    found = built.detect(make_example())
    assert found.boxes.shape == (0, 4)
    assert found.labels.shape == found.scores.shape == (0,)
    if detector != "retinanet":
        assert found.masks.shape == (0, 48, 64)


@pytest.mark.parametrize("detector", KINDS)
def test_an_image_may_have_no_objects(make_encoder, detector):
    # A crop may have lost them all.
    empty = make_example(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        masks=torch.zeros(0, 48, 64, dtype=torch.bool),
    )
    for examples in ([empty, make_example()], [empty]):
        losses = step(build(make_encoder(), recipe_of(detector)), examples)
        assert all(math.isfinite(loss.item()) for loss in losses.values())
        only = {"loss_cls", "loss_rpn_cls"} if examples == [empty] else losses.keys()
        assert {name for name, loss in losses.items() if loss.item() > 0} == only & losses.keys()


def test_keypoints_are_trained_and_found(make_encoder):
    recipe = recipe_of("fpn", masks=False, keypoints=True, roi_batch=8, detections_per_image=3)
    built = build(make_encoder(), recipe, num_keypoints=3)
    points = torch.tensor([[[10.0, 12.0, 2.0]] * 3, [[40.0, 20.0, 1.0]] * 3])
    with torch.no_grad():
        built.class_logits.bias[1] = 5
    found = built.eval().detect(make_example())
    assert found.keypoints.shape == (3, 3, 3)
    assert found.masks is None
    before = snapshot(built)
    losses = step(built, [make_example(keypoints=points)])
    # Nothing is known yet of the 56x56 places.
    assert losses["loss_keypoint"].item() == pytest.approx(math.log(56**2), rel=0.2)
    assert still_of(built, before) == set()


def test_what_fills_no_patch_is_not_lost(make_encoder):
    built = build(make_encoder("timm:convnext_atto"), recipe_of("c4", pool_size=7)).eval()
    images = built.images([noise(60, 70)])
    # To multiples of 16 with zeros; the anchors are clipped to what the image is.
    assert images.tensors.shape == (1, 3, 64, 80)
    assert images.image_sizes == [(60, 70)]
    assert not images.tensors[..., 60:, :].any()
    # A ResNet pads by itself: 60 / 16 and 70 / 16 rounded up.
    resnet = build(make_encoder("resnet18"), recipe_of("c4")).eval()
    assert resnet.images([noise(60, 70)]).tensors.shape == (1, 3, 60, 70)
    assert resnet.levels(noise(60, 70))["res4"].shape[2:] == (4, 5)
    # Seven pooled pixels are four of res5's in both.
    boxes = [torch.tensor([[0.0, 0.0, 40.0, 40.0]])]
    assert built.regions({"res4": torch.randn(1, 160, 4, 5)}, boxes).shape == (1, 320, 4, 4)
    # A pyramid is enlarged by two and two: whole multiples of the coarsest level's stride.
    pyramid = build(make_encoder("resnet18"), recipe_of("fpn")).eval()
    assert pyramid.images([noise(60, 70)]).tensors.shape == (1, 3, 64, 96)


@pytest.fixture
def retinanet(make_encoder):
    return build(make_encoder(), recipe_of("retinanet"))


def test_retinanet_tells_objects_from_background_and_ignores_what_is_between(retinanet):
    anchors = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # the first object's, IoU 1
            [0.0, 0.0, 10.0, 4.5],  # IoU 0.45: neither
            [0.0, 0.0, 10.0, 3.9],  # 0.39: background
            [40.0, 40.0, 50.0, 43.0],  # 0.3, but the second object has no better
            [80.0, 80.0, 90.0, 90.0],
        ]
    )
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0]])
    example = make_example(boxes=boxes, labels=torch.tensor([1, 0]))
    [matches], [classes], [targets] = retinanet._match(anchors, [example])
    assert matches.tolist() == [0, -2, -1, 1, -1]
    assert classes[[0, 3]].tolist() == [1, 0]
    assert classes[[2, 4]].tolist() == [2, 2]
    assert targets[0].tolist() == [0, 0, 0, 0]
    # From 3 to 10 pixels in height: the middle moves by 3.5 / 3.
    assert targets[3].tolist() == pytest.approx([0, 3.5 / 3, 0, math.log(10 / 3)])


def test_retinanets_losses_are_divided_by_a_running_mean_of_objects(retinanet):
    assert retinanet.normalizer == 100
    with torch.no_grad():
        for layer in (
            retinanet.head.classification_head.cls_logits,
            retinanet.head.regression_head.bbox_reg,
        ):
            layer.weight.zero_()
            layer.bias.zero_()
    example = make_example()
    retinanet.train()
    images = retinanet.images([example.pixels])
    _, _, anchors, _ = retinanet._predict(images)
    matches, _, targets = retinanet._match(anchors, [example])
    num_objects, num_told = (matches >= 0).sum().item(), (matches != -2).sum().item()
    losses = retinanet([example])
    divisor = 90 + 0.1 * num_objects
    assert retinanet.normalizer.item() == pytest.approx(divisor)
    # At probability a half: (1/2)^2 ln 2, times 0.25 for what is there and 0.75 for what is not;
    # two classes each.
    each = 0.25 * math.log(2)
    total = each * (0.25 * num_objects + 0.75 * (2 * num_told - num_objects))
    assert losses["loss_cls"].item() == pytest.approx(total / divisor, rel=1e-4)
    box_loss = targets[matches >= 0].abs().sum().item()
    assert losses["loss_box_reg"].item() == pytest.approx(box_loss / divisor, rel=1e-4)
    retinanet([example])
    assert retinanet.normalizer.item() == pytest.approx(0.9 * divisor + 0.1 * num_objects)
    # A resumed run divides by the same.
    assert "normalizer" in retinanet.state_dict()


def test_retinanet_looks_at_the_best_of_each_level(retinanet):
    scores = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.06
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(2000, 1)
    deltas = torch.zeros(2000, 4)
    boxes, best, classes = retinanet._candidates(scores, deltas, anchors)
    assert len(boxes) == len(classes) == 1000
    assert torch.equal(best, scores.flatten().sort(descending=True).values[:1000])
    assert len(retinanet._candidates(scores * 0 + 0.05, deltas, anchors)[0]) == 0


def test_another_normalisation_is_seen(make_encoder):
    encoder = make_encoder()
    built = build(encoder, recipe_of("fpn"))
    built.input = dataclasses.replace(DIGITS_INPUT, mean=(0.3, 0.3, 0.4))
    with pytest.raises(CheckpointError, match="features at res2: off by"):
        check_backbone(built, encoder, noise())
