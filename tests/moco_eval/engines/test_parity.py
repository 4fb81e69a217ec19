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
        y, x = torch.meshgrid(
            torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
        )
        middle, half = corner + side / 2, side / 2
        masks = torch.stack(
            [((x - m[0]) / h[0]) ** 2 + ((y - m[1]) / h[1]) ** 2 < 1 for m, h in zip(middle, half)]
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


def require_equal_losses(theirs, ours, examples):
    expected, found = theirs.train()(examples), ours.train()(examples)
    assert set(found) == set(expected)
    for name, loss in expected.items():
        assert loss > 1e-4, name
        torch.testing.assert_close(found[name], loss, rtol=1e-4, atol=0, msg=f"{name}: {found[name]} {loss}")
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
