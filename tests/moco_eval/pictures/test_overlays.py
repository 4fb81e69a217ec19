"""Sheets of images: what is shown on them, and where."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moco_eval import canvas, pictures
from moco_eval.data.masks import encode
from moco_eval.pictures import looks, maps, overlays, sheet

NAMES = ("cat", "dog", "owl")
GROUND = (10, 200, 30)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def places(image, color):
    """Rows and columns of the pixels of exactly this colour."""
    rgb = color if isinstance(color, tuple) else tuple(looks.rgb_of(color))
    return np.nonzero((image == rgb).all(-1))


def halves(path):
    """The two panels of a sheet of one image, found by the plain colour of the image."""
    image = pixels(path)
    _, columns = places(image, GROUND)
    gap = np.flatnonzero(np.diff(np.unique(columns)) > 8)[0]
    middle = np.unique(columns)[gap] + 4
    sides = []
    for side in (image[:, :middle], image[:, middle:]):
        rows, columns = places(side, GROUND)
        sides.append(side[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    return sides


def scene(image_id, boxes, labels, *, size=(60, 100), **more):
    """A plain image with objects; 100 pixels are 480 on a sheet."""
    number = len(labels)
    given = {
        "image_id": image_id,
        "path": Path(f"{image_id}.png"),
        "size": size,
        "boxes": np.array(boxes, np.float32).reshape(number, 4),
        "labels": np.array(labels, np.int64),
        "segmentations": (None,) * number,
        "crowd": np.zeros(number, bool),
        "image": lambda: Image.new("RGB", size[::-1], GROUND),
    }
    return SimpleNamespace(**(given | more))


def result(image_id, category, box, score, **more):
    left, top, right, bottom = box
    bbox = [left, top, right - left, bottom - top]
    return {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score} | more


def draw(folder, scenes, results, scores):
    """The sheets; the json's categories are 5, 6 and 9."""
    split = SimpleNamespace(scenes=tuple(scenes), category_ids=(5, 6, 9))
    return overlays.draw(np.array(scores), NAMES, split, results, folder, title="x on y")


def numbers(path):
    return pd.read_csv(path.with_suffix(".csv"), keep_default_na=False)


def test_the_best_and_the_worst_are_those_that_one_picks_by_hand():
    # Image 2 has no score, 6 nothing in it, and 3 and 5 nothing that is right.
    scores = np.array([100.0, 100.0, np.nan, 0.0, 50.0, 0.0, 100.0])
    sizes = np.array([1, 3, 4, 2, 2, 4, 0])
    assert pictures.best_and_worst(scores, sizes, number=3) == ([1, 0, 4], [5, 3])
    # Of equals the one with more in it, then the earlier; nothing wrong is never the worst.
    assert pictures.best_and_worst(scores, sizes, number=1) == ([1], [5])
    assert pictures.best_and_worst(np.full(4, 50.0), np.ones(4), number=2) == ([0, 1], [2, 3])
    # Of three images two are the best at most, and none is both.
    assert pictures.best_and_worst(np.full(3, 50.0), np.ones(3), number=8) == ([0, 1], [2])
    assert pictures.best_and_worst(np.zeros(2), np.ones(2), number=8) == ([], [0, 1])


def test_a_box_has_its_classs_colour_where_it_lies_and_the_same_on_both_sides(tmp_path):
    # A cat at the left is found; an owl is seen below where there is none.
    cat, owl = (10, 20, 40, 50), (70, 30, 90, 55)
    found = [result(7, 9, owl, 0.9), result(7, 5, cat, 0.8), result(7, 6, (1, 1, 9, 9), 0.49)]
    (path,) = draw(tmp_path, [scene(7, [cat], [0])], found, [66.7])
    assert path.name == "best_images.png"
    truth, detections = halves(path)
    # Twice a cat and once an owl: the most frequent class gets the first colour.
    first, second, third = looks.FILLS[:3]
    for side in (truth, detections):
        rows, columns = places(side, first)
        # The name's ground lies above the box, so that the box has the other three sides.
        assert rows.max() == pytest.approx(4.8 * 50, abs=3)
        assert columns.min() == pytest.approx(4.8 * 10, abs=3)
        right = columns[rows > 4.8 * 30]
        assert right.max() == pytest.approx(4.8 * 40, abs=3)
        # Nothing is filled where there are no masks.
        assert tuple(side[round(4.8 * 35), round(4.8 * 25)]) == GROUND
    rows, columns = places(detections, second)
    assert rows.max() == pytest.approx(4.8 * 55, abs=3)
    below = columns[rows > 4.8 * 40]
    assert below.min() == pytest.approx(4.8 * 70, abs=3)
    assert below.max() == pytest.approx(4.8 * 90, abs=3)
    assert len(places(truth, second)[0]) == 0
    # A dog of score 0.49 is none.
    assert len(places(detections, third)[0]) == 0


def test_masks_fill_their_pixels_and_boxes_their_edges_alone(tmp_path):
    mask = np.zeros((60, 100), bool)
    mask[20:50, 40:80] = True
    box = (40, 20, 80, 50)
    shown = scene(1, [box], [1], segmentations=("a mask",), masks=lambda: mask[None])
    # The mask that was found reaches the lower half alone.
    half = mask & (np.arange(60)[:, None] >= 35)
    found = [result(1, 6, box, 0.7, segmentation=encode(half))]
    truth, detections = halves(draw(tmp_path, [shown], found, [100.0])[0])
    # 0.55 of the image and 0.45 of the first colour, (230, 159, 0).
    filled = (round(5.5 + 103.5), round(110 + 71.55), round(16.5))
    upper, lower = (round(4.8 * 28), round(4.8 * 60)), (round(4.8 * 43), round(4.8 * 60))
    assert tuple(truth[upper]) == filled
    assert tuple(truth[lower]) == filled
    assert tuple(detections[upper]) == GROUND
    assert tuple(detections[lower]) == filled
    # Its edge is two pixels deep.
    assert tuple(detections[round(4.8 * 35) + 1, round(4.8 * 60)]) == (230, 159, 0)


def test_an_object_without_a_mask_leaves_its_image_with_boxes(tmp_path):
    shown = scene(1, [(40, 20, 80, 50)], [1], masks=lambda: pytest.fail("there is none"))
    mask = np.zeros((60, 100), bool)
    mask[30:40, 50:60] = True
    found = [result(1, 6, (40, 20, 80, 50), 0.7, segmentation=encode(mask))]
    truth, _ = halves(draw(tmp_path, [shown], found, [100.0])[0])
    assert tuple(truth[round(4.8 * 35), round(4.8 * 60)]) == GROUND


def test_keypoints_that_are_there_are_points_in_their_objects_colour(tmp_path):
    # The second one is not there, whatever its place.
    points = np.array([[[30.0, 40.0, 2.0], [70.0, 40.0, 0.0]]])
    shown = scene(1, [(10, 10, 90, 55)], [0], keypoints=points)
    found = [result(1, 5, (10, 10, 90, 55), 0.7, keypoints=[50.0, 30.0, 0.9, 60.0, 45.0, 0.1])]
    truth, detections = halves(draw(tmp_path, [shown], found, [100.0])[0])
    color = tuple(looks.rgb_of(looks.FILLS[0]).astype(int))
    assert tuple(truth[round(4.8 * 40), round(4.8 * 30)]) == color
    assert tuple(truth[round(4.8 * 40), round(4.8 * 70)]) == GROUND
    assert tuple(detections[round(4.8 * 30), round(4.8 * 50)]) == color
    assert tuple(detections[round(4.8 * 45), round(4.8 * 60)]) == color


def test_the_csv_says_what_is_drawn(tmp_path):
    # The larger comes first, and of what was detected the surest. Image 2 is empty but for what
    # was seen in it, so that it can be the worst alone; 3 has no score.
    scenes = [
        scene(1, [(0, 0, 10, 10), (20, 20, 60, 60)], [2, 0], crowd=np.array([True, False])),
        scene(2, [], []),
        scene(3, [(0, 0, 5, 5)], [1]),
    ]
    found = [
        result(1, 5, (21, 20, 60, 60), 0.6),
        result(1, 9, (1, 2, 3, 4), 0.75),
        result(2, 6, (5, 5, 9, 9), 0.5),
        result(3, 6, (0, 0, 5, 5), 0.9),
    ]
    best, worst = draw(tmp_path, scenes, found, [66.66667, 0.0, np.nan])
    table = numbers(best)
    assert list(table.columns)[:4] == ["image", "image_id", "file", "F1"]
    assert set(table["image"]) == {"best 1"}
    assert list(table["F1"]) == [66.6667] * 4
    assert table.drop(columns=["image", "image_id", "file", "F1"]).to_numpy().tolist() == [
        ["truth", "cat", "", "", 20.0, 20.0, 60.0, 60.0],
        ["truth", "owl", "", "crowd", 0.0, 0.0, 10.0, 10.0],
        ["detected", "owl", "0.75", "", 1.0, 2.0, 3.0, 4.0],
        ["detected", "cat", "0.6", "", 21.0, 20.0, 60.0, 60.0],
    ]
    assert numbers(worst)[["image", "image_id", "file", "side", "class"]].to_numpy().tolist() == [
        ["worst 1", 2, "2.png", "detected", "dog"]
    ]
    assert pictures.alt_of(best) == (
        "1 test image with F1 67 %, each with its objects beside what was detected: 2 objects and "
        "2 detections."
    )


def test_a_difficult_object_is_dashed_and_counts_as_nothing_to_find(tmp_path):
    box = (10, 20, 90, 55)
    difficult = scene(1, [box], [0], difficult=np.array([True]))
    # With nothing else in it the image is not the best.
    assert draw(tmp_path, [difficult], [], [100.0]) == []
    (path,) = draw(tmp_path, [difficult], [], [50.0])
    assert path.name == "worst_images.png"
    assert list(numbers(path)["note"]) == ["difficult"]
    (plain,) = draw(tmp_path / "plain", [scene(1, [box], [0])], [], [0.0])
    ink = [len(places(halves(each)[0][-60:], looks.FILLS[0])[0]) for each in (path, plain)]
    assert ink[0] < 0.8 * ink[1]


def test_nothing_detected_at_all_has_no_best_and_all_right_no_worst(tmp_path):
    scenes = [scene(1, [(0, 0, 9, 9)], [0]), scene(2, [(0, 0, 9, 9)], [1])]
    assert [path.name for path in draw(tmp_path, scenes, [], [0.0, 0.0])] == ["worst_images.png"]
    (path,) = draw(tmp_path, scenes, [], [100.0, 100.0])
    assert path.name == "best_images.png"
    assert set(numbers(path)["image"]) == {"best 1"}


def test_real_scenes_are_drawn_twice_to_the_same_bytes(tmp_path, tiny_data):
    split = tiny_data.test
    found = [
        result(each.image_id, split.category_ids[each.labels[0]], each.boxes[0].tolist(), 0.9)
        for each in split.scenes[:5]
    ]
    scores = np.array([66.7] * 5 + [0.0] * 5)
    made = [
        overlays.draw(scores, split.classes, split, found, tmp_path / name, title="")
        for name in ("one", "other")
    ]
    assert [path.name for path in made[0]] == ["best_images.png", "worst_images.png"]
    for one, other in zip(*made, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.with_suffix(".csv").read_bytes() == other.with_suffix(".csv").read_bytes()


def test_names_stand_at_their_boxes_and_never_on_each_other():
    # A hundred boxes at random; those that find no clear place have none.
    draws = np.random.default_rng(0)
    corners = draws.integers(0, 400, (100, 2))
    boxes = np.concatenate([corners, corners + draws.integers(10, 80, (100, 2))], 1).astype(float)
    sizes = [(60, 20)] * 100
    spots = sheet.find_room(boxes, sizes, (480, 480))
    named = [(number, spot) for number, spot in enumerate(spots) if spot]
    assert named[0][0] == 0
    assert 20 < len(named) < 100
    # 25 % of 480 x 480 is 48 names of 60 x 20.
    assert sum(60 * 20 for _ in named) <= 0.25 * 480 * 480
    for number, (left, top) in named:
        assert 0 <= left <= 420
        assert 0 <= top <= 460
        grown = boxes[number] + (-61, -21, 61, 21)
        assert grown[0] <= left <= grown[2]
        assert grown[1] <= top <= grown[3]
        for other, (x, y) in named:
            assert other == number or abs(left - x) >= 60 or abs(top - y) >= 20


def test_a_name_stands_above_its_box_where_there_is_room_and_below_where_there_is_none():
    boxes = np.array([[100.0, 100, 200, 200], [300, 0, 400, 100]])
    assert sheet.find_room(boxes, [(50, 20)] * 2, (480, 480)) == [(100, 80), (300, 100)]


def test_a_black_name_stands_on_light_colours_and_a_white_one_on_dark():
    assert looks.ink_on("#F0E442") == "black"
    # Of luminance 0.22, which is 5.4 to 1 against black and 3.9 to 1 against white.
    assert looks.ink_on("#D55E00") == "black"
    assert looks.ink_on("#332288") == "white"


def test_the_first_twenty_classes_have_colours_of_their_own():
    colors = looks.colors_of([8, 3, 8, *range(100, 118)])
    assert len(colors) == len(set(colors.values())) == 20
    assert list(colors)[:2] == [8, 3]


# Four pixels by four, cat above dog; one corner has no class. Of the prediction the upper right
# quarter is owl, and so is the corner, which does not count.
TRUTH = np.repeat([[0] * 4, [1] * 4], 2, axis=0).astype(np.uint8)
TRUTH[3, 3] = 255
FOUND = TRUTH.copy()
FOUND[:2, 2:] = 2
FOUND[3, 3] = 2


def draw_maps(folder, names=NAMES):
    image = Image.new("RGB", (4, 4), GROUND)
    split = SimpleNamespace(
        pair=lambda index: (image, TRUTH), items=[SimpleNamespace(name="/data/a.png")] * 3
    )
    drawn = {"mIoU_by_image": np.array([90.0, 40.0, np.nan]), "predicted_worst": [(1, FOUND)]}
    (path,) = maps.draw(drawn, names, split, folder, title="x on y")
    assert path.name == "worst_images.png"
    return path


def cells(path):
    """Of truth, prediction and difference the colour of each pixel, away from edges and names."""
    image = pixels(path)
    rows, columns = places(image, GROUND)
    top, left = rows.min(), columns.min()
    steps = [30 + 120 * i for i in range(4)]
    return [
        np.array([[image[top + y, left + panel * 492 + x - 10] for x in steps] for y in steps])
        for panel in (1, 2, 3)
    ]


def test_maps_show_truth_beside_prediction_in_the_same_colours_and_what_is_wrong(tmp_path):
    truth, found, wrong = cells(draw_maps(tmp_path))
    # By the pixels of both: dog 15, cat 12, owl 5.
    dog, cat, owl = (looks.rgb_of(color) for color in looks.FILLS[:3])
    assert (truth[0] == cat).all()
    assert (truth[3, 0] == dog).all()
    assert (truth[3, 3] == 255).all()
    assert (found[0, 0] == cat).all()
    assert (found[0, 3] == owl).all()
    assert (found[3, 0] == dog).all()
    assert (found[3, 3] == owl).all()
    # Only where there is a class can one be wrong.
    is_red = (wrong == looks.rgb_of(canvas.VERMILLION)).all(-1)
    expected = np.zeros((4, 4), bool)
    expected[:2, 2:] = True
    assert (is_red == expected).all()


def test_the_background_is_grey_whatever_its_size(tmp_path):
    truth, *_ = cells(draw_maps(tmp_path, names=("background", "dog", "owl")))
    assert (truth[0] == looks.rgb_of("#D1D5DB")).all()
    assert (truth[3, 0] == looks.rgb_of(looks.FILLS[0])).all()


def test_the_csv_of_a_map_counts_its_pixels(tmp_path):
    path = draw_maps(tmp_path)
    # The corner without a class is left out: of owl four pixels are predicted, not five.
    assert numbers(path).to_numpy().tolist() == [
        ["worst 1", "a.png", 40.0, "cat", 8, 4, 4, 50.0],
        ["worst 1", "a.png", 40.0, "dog", 7, 7, 7, 100.0],
        ["worst 1", "a.png", 40.0, "owl", 0, 4, 0, 0.0],
    ]
    assert path.read_bytes() == draw_maps(tmp_path / "again").read_bytes()


def test_a_name_stands_in_the_middle_of_its_classs_largest_region():
    # A square of three pixels and one of five; what is one pixel thin has no middle.
    labels = np.zeros((60, 90), np.uint8)
    labels[0:3, 0:3] = labels[20:25, 10:15] = 1
    labels[40, :] = 2
    assert maps.deepest(labels)[1] == (12.5, 22.5)
    assert set(maps.deepest(labels)) == {0, 1}
