"""Views of scenes: by hand, and pixel for pixel as Detectron2's mapper augments for training."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from moco_eval.data.masks import decode, encode
from moco_eval.data.scene import Scene
from moco_eval.engines.examples import seen
from moco_eval.engines.views import View, draw_view, jittered, resized, whole_view
from moco_eval.errors import DataError

# Three keypoints; a mirror exchanges the first two.
FLIPS = ((0, 1),)


@pytest.fixture
def scene(tmp_path):
    """A noisy image 90 high and 120 wide of a triangle, a run-length disc and a crowd."""
    draw = np.random.RandomState(0)
    pixels = draw.randint(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    rows, columns = np.mgrid[:90, :120]
    disc = (rows - 60.5) ** 2 + (columns - 90.5) ** 2 < 400
    triangle = [10.0, 20.0, 60.5, 30.0, 30.0, 70.25]
    return Scene(
        image_id=3,
        path=tmp_path / "noise.png",
        size=(90, 120),
        boxes=np.array([[10, 20, 60.5, 70.25], [71, 41, 111, 81], [0, 0, 9, 9]], np.float32),
        labels=np.array([2, 0, 1]),
        segmentations=([triangle], encode(disc), None),
        areas=np.array([1000.0, 1256.0, 81.0]),
        crowd=np.array([False, False, True]),
        keypoints=np.array(
            [
                [[12, 22, 2], [58, 30, 1], [0, 0, 0]],
                [[80, 50, 2], [0, 0, 0], [119, 89, 2]],
                [[1, 1, 2], [1, 1, 2], [1, 1, 2]],
            ],
            np.float32,
        ),
    )


@pytest.fixture
def recipe(tiny_recipe):
    return dataclasses.replace(tiny_recipe, detector="fpn", masks=True, keypoints=True)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # COCO's most common size: 800 of 480 is 5/3, and 5/3 of 640 is 1066.7.
        ((480, 640), (1067, 800)),
        # 800 of 300 would make the long side 2400: 1333 of 900 is 1.481, of 300 it is 444.3.
        ((300, 900), (1333, 444)),
        ((900, 300), (444, 1333)),
        # Half of 1003 is 501.5; in the order in which Detectron2 multiplies it is just below.
        ((1003, 2666), (1333, 501)),
    ],
)
def test_the_short_side_is_asked_for_and_the_long_side_is_limited(size, expected):
    assert resized(size, side=800, max_side=1333) == expected


def test_everything_is_twice_as_large_in_an_image_of_twice_the_size(scene, recipe):
    example = seen(scene, recipe, whole_view(scene.size, side=180, max_side=999), flips=FLIPS)
    assert example.pixels.shape == (3, 180, 240)
    assert example.size == (90, 120)
    # The crowd is left out.
    assert example.labels.tolist() == [2, 0]
    assert example.boxes.tolist() == [[20, 40, 121, 140.5], [142, 82, 222, 162]]
    # The middle of pixel 12 is at 12.5, twice that is 25.
    assert example.keypoints[0].tolist() == [[25, 45, 2], [117, 61, 1], [0, 0, 0]]
    # A disc of radius 20 becomes one of 40: 40 * 40 * pi = 5027 pixels.
    assert int(example.masks[1].sum()) == pytest.approx(5027, rel=0.01)


def test_a_mirror_turns_everything_round_and_exchanges_left_and_right(scene, recipe):
    view = whole_view(scene.size, side=90, max_side=999)
    plain = seen(scene, recipe, view, flips=FLIPS)
    mirrored = seen(scene, recipe, dataclasses.replace(view, mirrored=True), flips=FLIPS)
    assert torch.equal(mirrored.pixels, plain.pixels.flip(2))
    assert mirrored.boxes.tolist() == [[59.5, 20, 110, 70.25], [9, 41, 49, 81]]
    assert torch.equal(mirrored.masks[1], plain.masks[1].flip(1))
    # Pixel 58's middle, 58.5, is 61.5 from the right: now that of the first keypoint.
    assert mirrored.keypoints[0].tolist() == [[61.5, 30.5, 1], [107.5, 22.5, 2], [0, 0, 0]]


def test_a_crop_cuts_objects_and_leaves_out_those_beyond(scene, recipe):
    # The upper left quarter, 45 high and 60 wide: the disc is beyond but for its topmost rows.
    view = View(source=(90, 120), size=(90, 120), top=0, left=0, shape=(45, 60))
    boxes_only = dataclasses.replace(recipe, masks=False, keypoints=False)
    example = seen(scene, boxes_only, view)
    assert example.pixels.shape == (3, 45, 60)
    assert example.boxes.tolist() == [[10, 20, 60, 45]]
    # With masks the box is closed around what is left: the triangle's right tip is cut off at 60,
    # and nothing of it is thinner than a pixel.
    masked = seen(scene, recipe, view, flips=FLIPS)
    assert masked.boxes[0, 2] == 60
    assert masked.masks.shape == (1, 45, 60)
    # The disc's keypoint at (80, 50) is beyond; the triangle's first two are within.
    assert masked.keypoints.tolist() == [[[12.5, 22.5, 2], [58.5, 30.5, 1], [0, 0, 0]]]


def test_an_object_of_which_no_pixel_is_left_is_left_out(scene, recipe):
    # One pixel of the image, in a row that half the height passes over.
    speck = np.zeros((90, 120), np.bool_)
    speck[60, 90] = True
    bare = dataclasses.replace(scene, segmentations=(scene.segmentations[0], encode(speck), None))
    view = whole_view(scene.size, side=45, max_side=999)
    assert seen(bare, recipe, view, flips=FLIPS).labels.tolist() == [2]
    boxes_only = dataclasses.replace(recipe, masks=False, keypoints=False)
    assert seen(bare, boxes_only, view).labels.tolist() == [2, 0]


def test_a_keypoint_beyond_the_crop_is_not_annotated(scene, recipe):
    view = View(source=(90, 120), size=(90, 120), top=0, left=0, shape=(45, 40))
    example = seen(scene, recipe, view, flips=FLIPS)
    assert example.keypoints.tolist() == [[[12.5, 22.5, 2], [0, 0, 0], [0, 0, 0]]]


def test_a_cut_object_has_the_box_of_what_is_left_of_it(scene, recipe):
    # Of the triangle's right half, from column 40 on, the lowest point is on the line from
    # (30, 70.25) to (60.5, 30): at x = 40 it is 57.05.
    view = View(source=(90, 120), size=(90, 120), top=0, left=40, shape=(90, 25))
    example = seen(scene, recipe, view, flips=FLIPS)
    left, top, right, bottom = example.boxes[0].tolist()
    assert (left, right) == (0, 20.5)
    # At x = 40 the upper edge is at 20 + 10 * 30 / 50.5 = 25.94.
    assert top == pytest.approx(25.94, abs=1.5)
    assert bottom == pytest.approx(57.05, abs=1.5)


def test_jitter_scales_to_fit_a_square_and_crops_to_it():
    # Twice the square of 60 is 120: the long side is scaled from 120 to 120, then 60 are kept.
    view = jittered((90, 120), 2.0, 60, 0.5, mirrored=False)
    assert (view.size, view.shape) == ((90, 120), (60, 60))
    # Half-way through the 30 and the 60 that are too many.
    assert (view.top, view.left) == (15, 30)
    small = jittered((90, 120), 0.5, 60, 0.7, mirrored=True)
    # Half the square: 30 wide, 22.5 high, rounded to even.
    assert (small.size, small.shape, small.top, small.left) == ((22, 30), (22, 30), 0, 0)
    assert small.mirrored


def test_drawn_views_vary_as_the_recipe_says(tiny_recipe):
    varied = dataclasses.replace(tiny_recipe, flip=True, short_sides_train=(30, 40), max_side=99)
    draw = torch.Generator().manual_seed(0)
    views = [draw_view((90, 120), varied, draw) for _ in range(200)]
    assert {view.size for view in views} == {(30, 40), (40, 53)}
    assert 70 < sum(view.mirrored for view in views) < 130
    jitter = dataclasses.replace(varied, jitter=(0.5, 2.0), max_side=60)
    views = [draw_view((90, 120), jitter, draw) for _ in range(200)]
    widths = [view.size[1] for view in views]
    assert 30 <= min(widths) < 40
    assert 110 < max(widths) <= 120
    assert all(view.shape <= (60, 60) for view in views)
    assert 70 < sum(view.mirrored for view in views) < 130
    still = dataclasses.replace(varied, flip=False)
    assert not any(draw_view((90, 120), still, draw).mirrored for _ in range(50))


def test_an_object_without_mask_or_keypoints_is_refused(scene, recipe):
    view = whole_view(scene.size, side=90, max_side=999)
    with pytest.raises(DataError, match=r"noise\.png has no segmentation"):
        seen(dataclasses.replace(scene, segmentations=(None,) * 3), recipe, view)
    with pytest.raises(DataError, match=r"noise\.png: A segmentation is neither polygons nor run"):
        seen(dataclasses.replace(scene, segmentations=([[1, 2, 3]],) * 3), recipe, view)
    with pytest.raises(DataError, match=r"noise\.png: its objects have no keypoints"):
        seen(dataclasses.replace(scene, keypoints=None), recipe, view)


def upstream(scene, augmentations, *, recompute_boxes=False):
    """What Detectron2's mapper makes of the scene."""
    from detectron2.data import DatasetMapper
    from detectron2.structures import BoxMode

    mapper = DatasetMapper(
        is_train=True,
        augmentations=augmentations,
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        use_keypoint=True,
        keypoint_hflip_indices=np.array([1, 0, 2]),
        recompute_boxes=recompute_boxes,
    )
    keypoints = scene.keypoints.astype(np.float64)
    keypoints[..., :2] += 0.5  # as its reader of COCO's json does
    annotations = [
        {
            "bbox": scene.boxes[n].tolist(),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": int(scene.labels[n]),
            "segmentation": copy.deepcopy(scene.segmentations[n]),
            "keypoints": keypoints[n].reshape(-1).tolist(),
            "iscrowd": int(scene.crowd[n]),
        }
        for n in range(2)
    ]
    height, width = scene.size
    record = {"file_name": str(scene.path), "height": height, "width": width}
    return mapper(record | {"annotations": annotations})


def assert_same(example, mapped, *, box_tolerance=1e-4, mask_tolerance=0.0):
    instances = mapped["instances"]
    assert torch.equal(example.pixels, mapped["image"])
    assert torch.equal(example.labels, instances.gt_classes)
    boxes = instances.gt_boxes.tensor
    assert torch.allclose(example.boxes, boxes, rtol=0, atol=box_tolerance)
    differing = (example.masks != instances.gt_masks.tensor).double().mean()
    assert differing <= mask_tolerance
    assert torch.allclose(example.keypoints, instances.gt_keypoints.tensor, rtol=0, atol=1e-4)


# Detectron2's structures predate today's numpy and torch.
OLD = pytest.mark.filterwarnings("ignore")


@OLD
@pytest.mark.detectron2
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("side", [60, 90, 133])
def test_resized_and_mirrored_scenes_are_detectron2s(scene, recipe, side, mirrored):
    from detectron2.data import transforms

    flip = transforms.RandomFlip(prob=float(mirrored))
    shortest = transforms.ResizeShortestEdge((side,), 170, "choice")
    view = whole_view(scene.size, side=side, max_side=170)
    example = seen(scene, recipe, dataclasses.replace(view, mirrored=mirrored), flips=FLIPS)
    assert_same(example, upstream(scene, [shortest, flip]))


@OLD
@pytest.mark.detectron2
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("scale", "share"), [(0.4, 0.5), (1.0, 0.1), (1.7, 0.3), (2.6, 0.9)])
def test_jittered_scenes_are_vitdets(scene, recipe, scale, share, mirrored, monkeypatch):
    from detectron2.data import transforms

    # Without shapely, Detectron2 crops bitmaps alone.
    drawn = tuple(encode(decode(each, scene.size)) for each in scene.segmentations[:2])
    scene = dataclasses.replace(scene, segmentations=(*drawn, None))
    augmentations = [
        transforms.RandomFlip(prob=float(mirrored)),
        transforms.ResizeScale(scale, scale, 70, 70),
        transforms.FixedSizeCrop((70, 70), pad=False),
    ]
    # The flip compares its draw with 0 or 1, and the scale is drawn from one number.
    monkeypatch.setattr(
        np.random, "uniform", lambda low=0.0, high=1.0, *_: low + share * (high - low)
    )
    view = jittered(scene.size, scale, 70, share, mirrored=mirrored)
    example = seen(scene, recipe, view, flips=FLIPS)
    assert len(example.labels) > 0
    # There boxes are drawn around the bitmaps' pixels; here, objects that are whole keep their own.
    mapped = upstream(scene, augmentations, recompute_boxes=True)
    # There run lengths are mirrored before they are resized: where two pixels are equally near, the
    # other one is taken.
    assert_same(example, mapped, box_tolerance=1.01, mask_tolerance=0.02 * mirrored)
    boxes = upstream(scene, augmentations)["instances"].gt_boxes.tensor
    assert (example.boxes[:, :2] >= boxes[:, :2] - 1e-4).all()
    assert (example.boxes[:, 2:] <= boxes[:, 2:] + 1e-4).all()
