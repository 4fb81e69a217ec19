"""torchvision's parts with Detectron2's meaning: anchors, levels, losses and places, by hand."""

import dataclasses
import math

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from moco_eval.engines.examples import Example
from moco_eval.engines.recipes import RECIPES
from moco_eval.engines.torchvision.anchors import Anchors, build_proposals
from moco_eval.engines.torchvision.boxes import best_boxes, box_losses, has_area, place
from moco_eval.engines.torchvision.keypoints import keypoint_loss, keypoints_of
from moco_eval.engines.torchvision.masks import mask_loss, mask_targets, paste_masks
from moco_eval.engines.torchvision.pooled import levels_of, pool


def make_example(*, size=(20, 20), seen=(20, 20), boxes=((0, 0, 1, 1),), **more):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    return Example(
        pixels=torch.zeros(3, *seen, dtype=torch.uint8),
        size=size,
        boxes=boxes,
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        **more,
    )


def test_anchors_stand_at_every_stride_and_are_not_rounded():
    anchors = Anchors([(16, 32, 64), (10, 11, 12)], [8, 16])
    images = ImageList(torch.zeros(2, 3, 16, 24), [(16, 24)] * 2)
    found = anchors(images, [torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 1, 2)])
    # 2x3 and 1x2 places, 3 sizes, 3 ratios.
    assert [each.shape for each in found] == [(8 * 9, 4)] * 2
    # Size 16, ratio 0.5: 16 * sqrt(2) = 22.63 wide, 11.31 high; then ratios 1 and 2.
    assert found[0][0].tolist() == pytest.approx([-11.3137, -5.6569, 11.3137, 5.6569], abs=1e-3)
    assert found[0][1].tolist() == [-8, -8, 8, 8]
    assert found[0][2].tolist() == pytest.approx([-5.6569, -11.3137, 5.6569, 11.3137], abs=1e-3)
    # The next place is 8 pixels to the right, the next row 8 below.
    assert (found[0][9] - found[0][0]).tolist() == pytest.approx([8, 0, 8, 0])
    assert (found[0][27] - found[0][0]).tolist() == pytest.approx([0, 8, 0, 8])
    # On the second map, after the 54 of the first: size 10, ratio 1, then 16 pixels to the right.
    assert found[0][55].tolist() == [-5, -5, 5, 5]
    assert found[0][64].tolist() == [11, -5, 21, 5]


@pytest.mark.parametrize(
    ("strides", "side", "expected"),
    [
        # 224 pixels are at home on stride 16, the third map from 4; half of it one level below.
        ((4, 8, 16, 32), 224, 2),
        ((4, 8, 16, 32), 223.9, 1),
        ((4, 8, 16, 32), 112, 1),
        ((4, 8, 16, 32), 447.9, 2),
        ((4, 8, 16, 32), 448, 3),
        # There is none finer and none coarser.
        ((4, 8, 16, 32), 5, 0),
        ((4, 8, 16, 32), 5000, 3),
        ((4, 8, 16, 32), 0, 0),
        # From stride 2 on, 28 pixels are at home on the first.
        ((2, 4, 8, 16), 55.9, 0),
        ((2, 4, 8, 16), 56, 1),
    ],
)
def test_a_box_has_the_level_of_its_size(strides, side, expected):
    # Twice as wide as high, away from the corner.
    width, height = side * 2**0.5, side / 2**0.5
    box = torch.tensor([[7.0, 3.0, 7.0 + side, 3.0 + side], [0.0, 0.0, width, height]])
    assert levels_of(box[:1], strides).tolist() == [expected]
    if side not in (224, 112, 448, 56):  # where rounding decides
        assert levels_of(box[1:], strides).tolist() == [expected]


def test_each_box_is_pooled_from_its_own_image_and_level():
    # Map m of image n is 10 * n + m everywhere.
    maps = [
        torch.stack([torch.full((2, size, size), 10.0 * n + m) for n in range(2)])
        for m, size in enumerate((128, 64, 32))
    ]
    small, large = [10.0, 10.0, 40.0, 40.0], [5.0, 5.0, 250.0, 250.0]
    boxes = [torch.tensor([large, small]), torch.tensor([small, large, small])]
    found = pool(maps, (4, 8, 16), boxes, 3)
    assert found.shape == (5, 2, 3, 3)
    assert found[:, 0, 1, 1].tolist() == [2, 0, 10, 12, 10]
    assert found.flatten(1).std(1).max() < 1e-5


def test_pooled_features_are_aligned():
    # A map that is its own place: the value at x is x + 0.5 pixels of stride 4.
    ramp = (torch.arange(16) + 0.5).expand(1, 1, 16, 16) * 4
    [found] = pool([ramp], (4,), [torch.tensor([[8.0, 8.0, 40.0, 40.0]])], 2)
    # Two cells of 16 pixels, their middles at 16 and 32.
    assert found[0, 0].tolist() == pytest.approx([16, 32])


class Maps:
    """What a proposal network is told of a backbone."""

    def __init__(self, **strides):
        self.strides = strides
        self.channels = 4


def make_proposals(*, pre=(3, 3), post=(10, 10), rpn_batch=8):
    recipe = dataclasses.replace(
        RECIPES["digits-c4"], rpn_pre_nms=pre, rpn_post_nms=post, rpn_batch=rpn_batch
    )
    return build_proposals(recipe, Maps(p2=4, p3=8), [(8,), (16,)])


def test_proposals_are_the_best_of_each_level_without_overlaps_within_it():
    network = make_proposals().eval()
    far = [[50.0 + 20 * n, 50.0, 60.0 + 20 * n, 60.0] for n in range(4)]
    boxes = torch.tensor(
        [
            # Four of the first level: the second overlaps the first, the last is not looked at.
            [0.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 9.0],
            far[0],
            far[1],
            # Three of the second: the same place as the first; one of no width once it is clipped.
            [0.0, 0.0, 10.0, 10.0],
            [-20.0, 0.0, -1.0, 10.0],
            far[2],
        ]
    )
    logits = torch.tensor([30.0, 40.0, 2.0, 1.0, 3.0, 9.0, -5.0])
    [found], [scores] = network.filter_proposals(boxes[None], logits[None], [(100, 200)], [4, 3])
    assert scores.tolist() == [40, 3, 2, -5]
    assert torch.equal(found, boxes[[1, 4, 2, 6]])


def test_the_best_proposals_of_all_levels_are_kept():
    network = make_proposals(post=(2, 9)).train()
    boxes = torch.tensor([[20.0 * n, 0.0, 20.0 * n + 10, 10.0] for n in range(4)])
    # As probabilities, all but the last are 1.
    logits = torch.tensor([25.0, 30.0, 40.0, 3.0])
    [found], _ = network.filter_proposals(boxes[None], logits[None], [(100, 100)], [2, 2])
    assert torch.equal(found, boxes[[2, 1]])
    network.eval()
    [found], _ = network.filter_proposals(boxes[None], logits[None], [(100, 100)], [2, 2])
    assert len(found) == 4


def test_proposal_losses_are_divided_by_what_should_be_sampled():
    network = make_proposals(rpn_batch=8)
    # One object, one background and one that lies between, in each of two images.
    labels = [torch.tensor([1.0, 0.0, -1.0])] * 2
    objectness = torch.zeros(6, 1)
    deltas = torch.tensor([[0.5, 0.0, 0.0, 0.0], [9e9] * 4, [9e9] * 4] * 2)
    targets = [torch.zeros(3, 4)] * 2
    class_loss, box_loss = network.compute_loss(objectness, deltas, labels, targets)
    # Four of ln 2, and two objects off by a half, over 2 * 8.
    assert class_loss.item() == pytest.approx(4 * math.log(2) / 16)
    assert box_loss.item() == pytest.approx(2 * 0.5 / 16)


@pytest.mark.parametrize(
    ("beta", "expected"),
    # Off by 2, 2, 2 and 0.1: L1; or half a square over beta below it, and beta / 2 less above.
    [(0.0, 6.1), (0.5, 3 * (2 - 0.25) + 0.1**2 / (2 * 0.5))],
)
def test_box_losses_are_of_objects_and_over_all_boxes(beta, expected):
    logits = torch.zeros(4, 3)
    classes = torch.tensor([0, 2, 0, 0])
    deltas = torch.full((4, 3, 4), 1e9)
    deltas[1, 2] = torch.tensor([2.0, -2.0, 2.0, 0.1])
    losses = box_losses(logits, deltas.flatten(1), classes, torch.zeros(4, 4), beta=beta)
    assert losses["loss_cls"].item() == pytest.approx(math.log(3))
    assert losses["loss_box_reg"].item() == pytest.approx(expected / 4)


def test_detections_exceed_the_threshold_and_do_not_overlap_within_a_class():
    place_of = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 1.0, 10.0, 10.0], [50.0, 0, 60, 10]])
    boxes = place_of[:, None].expand(3, 2, 4)
    scores = torch.tensor([[0.9, 0.5], [0.8, 0.6], [0.05, 0.7]])
    found, best, classes = best_boxes(boxes, scores, threshold=0.05, limit=100)
    # The second box of class 0 and the first of class 1 are beside better ones; 0.05 is too low.
    assert best.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert classes.tolist() == [0, 1, 1]
    assert torch.equal(found, place_of[[0, 2, 1]])
    assert len(best_boxes(boxes, scores, threshold=0.05, limit=2)[0]) == 2


def test_boxes_are_brought_to_the_image_file_and_into_it():
    # Pixels are half of the file's width, a quarter of its height.
    example = make_example(size=(80, 40), seen=(20, 20))
    placed = place(torch.tensor([[1.0, 1.0, 10.0, 30.0], [20.0, 2.0, 25.0, 9.0]]), example)
    assert placed.tolist() == [[2, 4, 20, 80], [40, 8, 40, 36]]
    assert has_area(placed).tolist() == [True, False]


def test_a_mask_is_drawn_within_its_box_and_nowhere_else():
    full = torch.ones(2, 4, 4)
    # Where the pixels' centres are at 2.5 to 5.5 and 3.5 to 6.5; the second box has no area.
    boxes = torch.tensor([[2.0, 3.0, 6.0, 7.0], [4.0, 4.0, 4.0, 9.0]])
    drawn = paste_masks(full, boxes, (9, 8))
    expected = torch.zeros(9, 8, dtype=torch.bool)
    expected[3:7, 2:6] = True
    assert torch.equal(drawn[0], expected)
    assert not drawn[1].any()
    # A box that does not begin at a whole pixel: its four cells are centred at 3, 4, 5 and 6, the
    # pixels at 2.5 (half of the first cell), 3.5 (1), 4.5 (0.8), 5.5 (0.3) and 6.5 (0).
    fading = torch.tensor([1.0, 1.0, 0.6, 0.0]).expand(1, 4, 4)
    [drawn] = paste_masks(fading, torch.tensor([[2.5, 3.0, 6.5, 7.0]]), (9, 8))
    assert drawn[4].tolist() == [False, False, True, True, True, False, False, False]


def two_masks():
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[1, 0:10, 0:10] = True
    return make_example(masks=masks)


def test_a_mask_target_is_the_part_of_the_mask_within_the_box():
    # Eight cells of one pixel from 5.4 on: the fifth, 9.4 to 10.4, is inside for the most part.
    boxes = torch.tensor([[5.4, 2.0, 13.4, 10.0]])
    target = mask_targets(two_masks(), boxes, torch.tensor([1]), 8)
    assert target[0].tolist() == [[True] * 5 + [False] * 3] * 8


def test_the_mask_loss_looks_at_the_map_of_the_true_class():
    boxes = [torch.tensor([[2.0, 2.0, 6.0, 6.0]])]
    masks = torch.full((1, 3, 4, 4), -1e9)
    masks[0, 2] = 0
    # The box lies within the object: everywhere a half was given for 1.
    loss = mask_loss(masks, torch.tensor([2]), [two_masks()], boxes, [torch.tensor([1])])
    assert loss.item() == pytest.approx(math.log(2))
    none = mask_loss(masks[:0], torch.tensor([]), [two_masks()], [boxes[0][:0]], [torch.tensor([])])
    assert none.item() == 0


def test_a_keypoint_is_at_the_middle_of_its_hottest_cell():
    # A box of 56 pixels, a cell each, from (4, 8), seen at half the file's width and a quarter of
    # its height.
    example = make_example(size=(400, 200), seen=(100, 100))
    heat = torch.zeros(1, 2, 56, 56)
    heat[0, 0, 10, 20] = math.log(1000)
    heat[0, 1] = 7.0
    [[hot, even]] = keypoints_of(heat, torch.tensor([[4.0, 8.0, 60.0, 64.0]]), example)
    # One cell has 1000 parts, the 3135 others one each; where all are alike, the first is taken.
    assert hot.tolist() == pytest.approx([24.5 * 2, 18.5 * 4, 1000 / 4135], rel=1e-4)
    assert even.tolist() == pytest.approx([4.5 * 2, 8.5 * 4, 1 / 3136], rel=1e-4)
    # Twice the box, twice the way; the score does not depend on the size.
    [[hot, _]] = keypoints_of(heat, torch.tensor([[4.0, 8.0, 116.0, 120.0]]), example)
    assert hot[:2].tolist() == pytest.approx([45 * 2, 29 * 4], abs=4)


def test_the_keypoint_loss_is_of_what_is_visible_and_within_the_box():
    truth = torch.tensor([[[5.0, 5.0, 2.0], [6.0, 6.0, 1.0], [7.0, 7.0, 0.0], [60.0, 5.0, 2.0]]])
    example = make_example(keypoints=truth)
    heat = torch.zeros(1, 4, 8, 8)
    # Wrong for the point that is not labelled and for the one outside.
    heat[0, 2:, 0, 0] = 1e6
    # Of 8 cells in 16 pixels, (5, 5) is in the third, where the first map is sure.
    heat[0, 0, 2, 2] = 1e6
    boxes = [torch.tensor([[0.0, 0.0, 16.0, 16.0]])]
    loss = keypoint_loss(heat, [example], boxes, [torch.tensor([0])])
    # Nothing, and ln 64, of two.
    assert loss.item() == pytest.approx(math.log(64) / 2)
