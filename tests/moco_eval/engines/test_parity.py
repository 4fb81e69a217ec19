"""Detectron2 where it is installed: from equal weights both engines compute the same."""

import dataclasses

import pytest
import torch

from moco_eval.data.images import InputSpec
from moco_eval.engines import torchvision as ours_engine
from moco_eval.engines.examples import Example
from moco_eval.engines.recipes import RECIPES

pytestmark = [
    pytest.mark.detectron2,
    # Detectron2 decorates its functions with what torch has deprecated, and calls meshgrid without
    # the argument that torch asks for; neither is ours to change.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]
NUM_CLASSES = 3


def small(detector, **more):
    """With more to sample than there is, nothing is left to chance."""
    numbers = {
        "detector": detector,
        "anchor_sizes": (16, 32, 64),
        "rpn_batch": 12_000,
        "roi_batch": 4000,
        "rpn_pre_nms": (300, 300),
        "rpn_post_nms": (60, 60),
        "mask_channels": 16,
    }
    return dataclasses.replace(RECIPES["digits-c4"], **numbers | more)


def make_examples(num, *, height=64, width=80):
    """Noise with three ellipses in boxes that no grid is aligned with."""
    draw = torch.Generator().manual_seed(11)
    examples = []
    for _ in range(num):
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=draw)
        corner = torch.rand(3, 2, generator=draw) * torch.tensor([width * 0.5, height * 0.5])
        side = 12.3 + torch.rand(3, 2, generator=draw) * torch.tensor([width * 0.3, height * 0.3])
        boxes = torch.cat([corner, corner + side], dim=1)
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        middle, half = corner + side / 2, side / 2
        masks = torch.stack(
            [
                ((x - m[0]) / h[0]) ** 2 + ((y - m[1]) / h[1]) ** 2 < 1
                for m, h in zip(middle, half, strict=True)
            ]
        )
        points = corner[:, None] + torch.rand(3, 4, 2, generator=draw) * side[:, None]
        seen = torch.tensor([[2.0, 1.0, 0.0, 2.0]] * 3)[..., None]
        examples.append(
            Example(
                pixels=pixels,
                size=(height, width),
                boxes=boxes,
                labels=torch.tensor([0, 1, 2]),
                masks=masks,
                keypoints=torch.cat([points, seen], dim=2),
            )
        )
    return examples


def build_both(encoder, recipe, *, num_keypoints=0):
    from moco_eval.engines import detectron

    numbers = {"num_classes": NUM_CLASSES, "num_keypoints": num_keypoints}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = detectron.build(encoder, recipe, **numbers)
        ours = ours_engine.build(encoder, recipe, **numbers)
    return theirs, ours


def background_first(tensor):
    """Detectron2 counts the background last, torchvision first."""
    return torch.cat([tensor[-1:], tensor[:-1]])


def liven(module, std):
    """Layers that have learnt nothing say nothing: make them say something."""
    with torch.no_grad():
        module.weight.normal_(std=std, generator=torch.Generator().manual_seed(5))


def copy(theirs, ours):
    ours.load_state_dict(theirs.state_dict())


def copy_rcnn(theirs, ours):
    """Give torchvision's heads the weights of Detectron2's, livened."""
    rpn, box = theirs.model.proposal_generator.rpn_head, theirs.model.roi_heads.box_predictor
    for layer, std in (
        (rpn.objectness_logits, 0.1),
        (rpn.anchor_deltas, 0.03),
        (box.cls_score, 0.3),
        (box.bbox_pred, 0.1),
    ):
        liven(layer, std)
    copy(rpn.conv, ours.rpn.head.conv[0][0])
    copy(rpn.objectness_logits, ours.rpn.head.cls_logits)
    copy(rpn.anchor_deltas, ours.rpn.head.bbox_pred)
    with torch.no_grad():
        # Every class has four deltas but the background, which has none in Detectron2.
        for name in ("weight", "bias"):
            getattr(ours.class_logits, name).copy_(background_first(getattr(box.cls_score, name)))
            deltas = getattr(box.bbox_pred, name)
            getattr(ours.box_deltas, name).copy_(torch.cat([1e9 * deltas[:4], deltas]))
    if hasattr(ours, "box_head"):
        copy_box_head(theirs.model.roi_heads.box_head, ours.box_head)
    if ours.keypoint_head is not None:
        head = theirs.model.roi_heads.keypoint_head
        layers = [layer for layer in head if isinstance(layer, torch.nn.Conv2d)]
        mine = [layer for layer in ours.keypoint_head[0] if isinstance(layer, torch.nn.Conv2d)]
        for each, other in zip(mine, layers, strict=True):
            copy(other, each)
        copy(head.score_lowres, ours.keypoint_head[1].kps_score_lowres)
    if ours.mask_head is not None:
        mask = theirs.model.roi_heads.mask_head
        liven(mask.predictor, 0.3)
        for mine, other in zip(ours.mask_head[0], mask.conv_norm_relus, strict=True):
            copy_conv(other, mine)
        copy(mask.deconv, ours.mask_head[1].conv5_mask)
        copy(mask.predictor, ours.mask_head[1].mask_fcn_logits)


def copy_conv(theirs, ours):
    """A convolution of Detectron2, its norm in it, to a Sequential of both."""
    with torch.no_grad():
        ours[0].weight.copy_(theirs.weight)
        if theirs.bias is not None:
            ours[0].bias.copy_(theirs.bias)
    if theirs.norm is not None:
        copy(theirs.norm, ours[1])


def copy_box_head(theirs, ours):
    convs = [each for each in ours if isinstance(each, torch.nn.Sequential)]
    for mine, other in zip(convs, theirs.conv_norm_relus, strict=True):
        copy_conv(other, mine)
    linear = [each for each in ours if isinstance(each, torch.nn.Linear)]
    for mine, other in zip(linear, theirs.fcs, strict=True):
        copy(other, mine)


def copy_pyramid(theirs, ours):
    fpn, pyramid = theirs.model.backbone, ours.body.pyramid
    for mine, lateral in zip(pyramid.inner_blocks, fpn.lateral_convs[::-1], strict=True):
        copy_conv(lateral, mine)
    for mine, output in zip(pyramid.layer_blocks, fpn.output_convs[::-1], strict=True):
        copy_conv(output, mine)
    if hasattr(fpn.top_block, "p6"):
        copy(fpn.top_block.p6, pyramid.extra_blocks.p6)
        copy(fpn.top_block.p7, pyramid.extra_blocks.p7)


def require_equal_losses(theirs, ours, examples):
    expected, found = theirs.train()(examples), ours.train()(examples)
    assert set(found) == set(expected)
    for name, loss in expected.items():
        assert loss > 1e-4, name
        torch.testing.assert_close(
            found[name], loss, rtol=1e-4, atol=0, msg=f"{name}: {found[name]} {loss}"
        )
    return expected, found


def require_equal_detections(theirs, ours, example):
    expected, found = theirs.eval().detect(example), ours.eval().detect(example)
    assert len(expected.boxes) > 5
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-4)
    return expected, found


BGR = InputSpec(channel_order="BGR", mean=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("arch", ["resnet10_small", "resnet18"])
def test_c4_has_equal_losses_boxes_and_masks(make_encoder, arch):
    recipe = small("c4", masks=True)
    theirs, ours = build_both(make_encoder(arch, BGR), recipe)
    copy_rcnn(theirs, ours)
    copy(theirs.model.roi_heads.res5.norm, ours.extra_norm)
    examples = make_examples(2)
    require_equal_losses(theirs, ours, examples)
    expected, found = require_equal_detections(
        theirs, ours, dataclasses.replace(examples[0], size=(32, 40))
    )
    assert expected.masks.any()
    assert not (found.masks != expected.masks).any()


@pytest.mark.parametrize("arch", ["resnet10_small", "resnet18"])
@pytest.mark.parametrize("norms", [True, False])
def test_a_pyramid_has_equal_losses_boxes_and_masks(make_encoder, arch, norms):
    recipe = small(
        "fpn",
        masks=True,
        anchor_sizes=(8, 16, 32, 64, 128),
        mask_convs=2,
        box_convs=1 if norms else 0,
        pyramid_norm=norms,
        head_norm=norms,
        box_loss_beta=0.0 if norms else 0.5,
    )
    theirs, ours = build_both(make_encoder(arch, BGR), recipe)
    copy_rcnn(theirs, ours)
    copy_pyramid(theirs, ours)
    # Of no whole strides; and not so many anchors that some are left out.
    height, width = (66, 94) if arch == "resnet10_small" else (150, 190)
    examples = make_examples(2, height=height, width=width)
    require_equal_losses(theirs, ours, examples)
    expected, found = require_equal_detections(
        theirs, ours, dataclasses.replace(examples[0], size=(height // 2, width // 2))
    )
    assert expected.masks.any()
    assert not (found.masks != expected.masks).any()


@pytest.mark.parametrize("arch", ["resnet10_small", "resnet50"])
def test_a_dilated_c5_has_equal_losses_boxes_and_masks(make_encoder, arch):
    recipe = small("dc5", masks=True, mask_convs=1)
    theirs, ours = build_both(make_encoder(arch, BGR), recipe)
    copy_rcnn(theirs, ours)
    copy_conv(theirs.model.backbone.reduce, ours.body.reduce)
    examples = make_examples(2)
    require_equal_losses(theirs, ours, examples)
    expected, found = require_equal_detections(
        theirs, ours, dataclasses.replace(examples[0], size=(32, 40))
    )
    assert expected.masks.any()
    assert not (found.masks != expected.masks).any()


def test_a_transformers_pyramid_has_equal_losses_boxes_and_masks(make_encoder):
    # LayerNorms in the heads, as in ViTDet's.
    recipe = small(
        "fpn",
        masks=True,
        anchor_sizes=(8, 16, 32, 64, 128),
        mask_convs=1,
        box_convs=1,
        box_fcs=1,
        head_norm=True,
    )
    vit = "timm:vit_tiny_patch16_224:img_size=32,depth=2,embed_dim=32,num_heads=2"
    theirs, ours = build_both(make_encoder(vit), recipe)
    copy_rcnn(theirs, ours)
    stages = [
        [p for each in e.stages for p in each.parameters()]
        for e in (theirs.model.backbone, ours.body)
    ]
    with torch.no_grad():
        for other, mine in zip(*stages, strict=True):
            mine.copy_(other)
    examples = make_examples(2, height=75, width=100)
    require_equal_losses(theirs, ours, examples)
    expected, found = require_equal_detections(theirs, ours, examples[0])
    assert expected.masks.any()
    assert not (found.masks != expected.masks).any()


def test_keypoints_are_equal(make_encoder):
    recipe = small(
        "fpn",
        keypoints=True,
        anchor_sizes=(8, 16, 32, 64, 128),
        rpn_post_nms=(15, 15),
        detections_per_image=8,
    )
    theirs, ours = build_both(make_encoder(), recipe, num_keypoints=4)
    copy_rcnn(theirs, ours)
    copy_pyramid(theirs, ours)
    examples = [dataclasses.replace(each, masks=None) for each in make_examples(2)]
    require_equal_losses(theirs, ours, examples)
    expected, found = require_equal_detections(
        theirs, ours, dataclasses.replace(examples[0], size=(32, 40))
    )
    assert expected.keypoints.shape[1:] == (4, 3)
    torch.testing.assert_close(found.keypoints, expected.keypoints, rtol=1e-4, atol=1e-4)


def copy_retinanet(theirs, ours):
    head = theirs.model.head
    liven(head.cls_score, 0.1)
    liven(head.bbox_pred, 0.05)
    for name, subnet, last in (
        ("classification_head", head.cls_subnet, head.cls_score),
        ("regression_head", head.bbox_subnet, head.bbox_pred),
    ):
        mine = getattr(ours.head, name)
        convs = [layer for layer in subnet if isinstance(layer, torch.nn.Conv2d)]
        for block, conv in zip(mine.conv, convs, strict=True):
            liven(conv, 0.03)
            copy(conv, block[0])
        copy(last, mine.cls_logits if name == "classification_head" else mine.bbox_reg)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_retinanets_are_equal(make_encoder, beta):
    recipe = small(
        "retinanet", anchor_sizes=(8, 16, 32, 64, 128), score_threshold=0.02, box_loss_beta=beta
    )
    theirs, ours = build_both(make_encoder("resnet18"), recipe)
    copy_pyramid(theirs, ours)
    copy_retinanet(theirs, ours)
    examples = make_examples(2, height=150, width=190)
    # Twice: what the losses are divided by moves.
    for _ in range(2):
        require_equal_losses(theirs, ours, examples)
    assert ours.normalizer.item() == pytest.approx(theirs.model.loss_normalizer)
    require_equal_detections(theirs, ours, dataclasses.replace(examples[0], size=(75, 95)))
