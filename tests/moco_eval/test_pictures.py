import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from moco_eval import accuracy, canvas, pictures
from moco_eval.pictures import by_class, confusion, feature_map, nearest, reliability, sensitivity

RNG = np.random.default_rng(0)


def pixels(path):
    """The picture's RGB values from 0 to 255, ``(H, W, 3)``."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def places(image, color):
    """Rows and columns of the pixels of exactly this hexadecimal colour."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return np.nonzero((image == rgb).all(-1))


def count(image, color):
    return len(places(image, color)[0])


def numbers(path):
    return pd.read_csv(path.with_suffix(".csv"), keep_default_na=False)


# Twelve images of three classes; each finds its own class nearest, then the next one.
LABELS = np.arange(12) % 3
ARRAYS = {
    "logits": np.eye(3)[LABELS] + 0.01 * RNG.random((12, 3)),
    "labels": LABELS,
    "train_labels": LABELS,
    "test_features": np.eye(3)[LABELS] + 0.01 * RNG.random((12, 3)),
    "neighbours": np.stack([np.arange(12), (np.arange(12) + 1) % 12], axis=1),
    "sensitivity": [{"c": 0.1, "top1": 50.0}, {"c": 1.0, "top1": 60.0}],
}
IMAGES = [Image.new("L", (8, 6), 20 * i) for i in range(12)]


def draw(folder, **changes):
    """The names of the pictures of ``ARRAYS`` with these changes; None takes one away."""
    drawn = {name: array for name, array in (ARRAYS | changes).items() if array is not None}
    made = pictures.draw(
        drawn, classes=("a", "b", "c"), images=(IMAGES, IMAGES), folder=folder, title="x on y"
    )
    assert all(path.parent == folder and path.with_suffix(".csv").exists() for path in made)
    return [path.name for path in made]


def test_all_that_the_arrays_allow_is_drawn_and_no_picture_is_blank(tmp_path):
    names = draw(tmp_path / "new", unknown="is ignored")
    assert names == [
        "sensitivity.png",
        "per_class.png",
        "confusion.png",
        "reliability.png",
        "neighbours.png",
        "map.png",
    ]
    for name in names:
        image = pixels(tmp_path / "new" / name)
        # A blank picture with a heading has ink on its first lines alone.
        assert image[image.shape[0] // 4 :].std() > 5, name


def test_what_lacks_an_array_is_left_out(tmp_path):
    assert draw(tmp_path, labels=None) == ["sensitivity.png"]
    only_map = {"logits": None, "sensitivity": None, "neighbours": None}
    assert draw(tmp_path, **only_map) == ["map.png"]
    no_map = {"logits": None, "sensitivity": None, "test_features": None}
    assert draw(tmp_path, **no_map) == ["neighbours.png"]
    assert draw(tmp_path, **no_map, train_labels=None) == []
    # Without images no neighbours; with several classes an image, nothing that needs one.
    found = {name: ARRAYS[name] for name in ("labels", "train_labels", "neighbours")}
    assert pictures.draw(found, classes=(), folder=tmp_path, title="") == []
    several = np.eye(3)[LABELS]
    assert draw(tmp_path, sensitivity=None, labels=several) == []
    assert pictures.draw({}, classes=(), folder=tmp_path, title="") == []


def test_scores_that_are_no_confidences_have_no_reliability(tmp_path):
    others = {"sensitivity": None, "test_features": None, "neighbours": None}
    names = draw(tmp_path, **others, logits=None, scores=ARRAYS["logits"])
    assert names == ["per_class.png", "confusion.png"]


def test_of_images_with_several_classes_the_average_precision_is_drawn_by_class(tmp_path):
    # Class b is in no test image; a class without a name is called by its number.
    found = {"labels": np.eye(4)[LABELS], "logits": np.eye(4), "AP_by_class": [50, np.nan, 70, 60]}
    (path,) = pictures.draw(found, classes=("a", "b", "c"), folder=tmp_path, title="")
    assert path.name == "per_class.png"
    assert numbers(path).to_dict("list") == {
        "index": [2, 3, 0, 1],
        "class": ["c", "3", "a", "b"],
        "AP": ["70.0", "60.0", "50.0", ""],
    }
    nothing = {"AP_by_class": [np.nan, np.nan]}
    assert pictures.draw(nothing, classes=(), folder=tmp_path, title="") == []


def test_pictures_made_again_have_the_same_bytes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    draw(first)
    names = draw(second)
    for name in [*names, *(name.replace("png", "csv") for name in names)]:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


# Class 0: four images, answers 0 0 1 and none (a logit is no number); class 1: two, both answered
# as 2; class 2: one, answered as 2; class 3: none.
TRUE = np.array([0, 0, 0, 0, 1, 1, 2])
ANSWERS = np.array([0, 0, 1, 0, 2, 2, 2])
LOGITS = np.eye(4)[ANSWERS]
LOGITS[3, 3] = math.nan


def test_accuracy_by_class_is_sorted_and_counts_no_answer_as_wrong(tmp_path):
    path = by_class.draw_accuracy(LOGITS, TRUE, ["a", "b", "c", "d"], tmp_path, title="")
    # c 1 of 1, a 2 of 4, b 0 of 2, and of d nothing is known.
    assert numbers(path).to_dict("list") == {
        "index": [2, 0, 1, 3],
        "class": ["c", "a", "b", "d"],
        "n": [1, 4, 2, 0],
        "right": [1, 2, 0, 0],
        "top1": ["100.0", "50.0", "0.0", ""],
    }


def test_the_confusion_matrix_lists_what_each_class_is_taken_for(tmp_path):
    path = confusion.draw_answers(LOGITS, TRUE, ["a", "b", "c", "d"], tmp_path, title="")
    # The image without an answer counts among the four of its class, and in no cell.
    assert numbers(path).to_dict("list") == {
        "true": ["a", "a", "b", "c"],
        "predicted": ["a", "b", "c", "c"],
        "true_index": [0, 0, 1, 2],
        "predicted_index": [0, 1, 2, 2],
        "n": [2, 1, 2, 1],
        "share": [50.0, 25.0, 100.0, 100.0],
    }


def test_of_many_classes_the_extremes_and_the_most_confused_pairs_are_drawn(tmp_path):
    # Each of 50 classes has two images; those of the first 25 are all taken for the next class.
    labels = np.arange(100) % 50
    logits = np.eye(50)[np.where(labels < 25, labels + 1, labels)]
    names = [f"{'a rather long name of a class ' * 2}{i}" for i in range(50)]
    by_class.draw_accuracy(logits, labels, names, tmp_path, title="")
    bars = pixels(tmp_path / "per_class.png")
    best, worst, _ = np.array_split(bars, 3, axis=1)
    assert count(best, canvas.BLUE) > 10_000
    # The worst reach nothing, and nothing has no bar.
    assert count(worst, canvas.BLUE) == 0
    confusion.draw_answers(logits, labels, names, tmp_path, title="")
    rows, _ = places(pixels(tmp_path / "confusion.png"), canvas.BLUE)
    # Twenty bars of 25 pairs: as many runs of rows with ink.
    assert (np.diff(np.unique(rows)) > 1).sum() + 1 == confusion.NUM_SHOWN
    assert len(numbers(tmp_path / "confusion.png")) == 50


def test_where_nothing_is_confused_there_are_no_pairs_to_draw(tmp_path):
    labels = np.arange(23)
    names = [str(label) for label in labels]
    assert confusion.draw_answers(np.eye(23), labels, names, tmp_path, title="") is None


def test_reliability_bins_are_those_that_one_fills_by_hand(tmp_path):
    # Of 15 bins of 6.67 %: 90 % sure lies in the 14th (one right, one wrong), 62 % in the 10th,
    # and who gives the other class no chance at all in the last. The last row has no answer.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.38, 0.62], [0.5, 0.5], [0.5, 0.5]])
    logits[3] = (0, -math.inf)
    logits[4] = math.nan
    path = reliability.draw(logits, np.array([0, 1, 1, 0, 0]), tmp_path, title="")
    filled = numbers(path).query("n > 0")
    assert filled.to_dict("list") == {
        "above": [60.0, 86.6667, 93.3333],
        "up_to": [66.6667, 93.3333, 100.0],
        "n": [1, 2, 1],
        "confidence": [62.0, 90.0, 100.0],
        "accuracy": [100.0, 50.0, 100.0],
    }
    assert len(numbers(path)) == accuracy.NUM_BINS


def test_the_reliability_diagram_shows_the_records_own_calibration_error(tmp_path):
    logits, labels = 3 * RNG.normal(size=(200, 5)), RNG.integers(0, 5, 200)
    path = reliability.draw(logits, labels, tmp_path, title="")
    bins = numbers(path)
    ece = ((bins["accuracy"] - bins["confidence"]).abs() * bins["n"]).sum() / 200
    metrics = accuracy.metrics(torch.from_numpy(logits), torch.from_numpy(labels))
    assert ece == pytest.approx(metrics["ece"], abs=1e-3)


def test_no_answer_at_all_has_no_reliability(tmp_path):
    logits = np.full((3, 2), math.nan)
    assert reliability.draw(logits, np.zeros(3, int), tmp_path, title="") is None


def test_the_best_and_the_worst_queries_come_from_many_classes():
    # Of ten queries 0, 1 and 2 have all neighbours right, 1 the nearest; 9, 8 and 7 none, 7 the
    # nearest. Queries 0 and 1 are of one class, so 1 goes first and 0 waits for the others.
    hits = np.array([4, 4, 4, 3, 3, 2, 1, 0, 0, 0])
    nearness = np.array([0.8, 0.9, 0.7, 0.9, 0.1, 0.5, 0.5, 0.9, 0.2, 0.3])
    labels = np.array([0, 0, 1, 2, 3, 4, 1, 2, 3, 4])
    # 1 (class 0), 2 (class 1), 3 (class 2), 4 (class 3), 5 (class 4): 0 is left to the worst.
    # 7 (2), 9 (4), 8 (3), 6 (1), 0 (0).
    assert nearest.choose(hits, nearness, labels) == [
        *zip([f"best {rank}" for rank in range(1, 6)], [1, 2, 3, 4, 5], strict=True),
        *zip([f"worst {rank}" for rank in range(1, 6)], [7, 9, 8, 6, 0], strict=True),
    ]


def test_no_query_is_drawn_as_best_and_as_worst():
    chosen = nearest.choose(np.array([2, 1, 0]), np.zeros(3), np.zeros(3, int))
    assert chosen == [("best 1", 0), ("best 2", 1), ("worst 1", 2)]


def test_the_neighbours_that_are_drawn_are_named(tmp_path):
    # Query 0 (class 0) finds training images 2 and 1, of classes 0 and 1; query 1 (class 1) finds
    # 0 and 2, both wrong.
    arrays = {
        "neighbours": np.array([[2, 1], [0, 2]]),
        "similarities": np.array([[0.9, 0.8], [0.7, 0.61239]]),
        "labels": np.array([0, 1]),
        "train_labels": np.array([0, 1, 0]),
    }
    tests = [np.full((4, 9, 3), 50, np.uint8), Image.new("RGBA", (300, 200))]
    trains = [Image.new("L", (3, 3)), Image.new("P", (5, 3)), Image.new("RGB", (3, 5))]
    path = nearest.draw(arrays, (tests, trains), ["a", "b"], tmp_path, title="")
    assert numbers(path).to_dict("list") == {
        "query": ["best 1", "best 1", "worst 1", "worst 1"],
        "test_image": [0, 0, 1, 1],
        "class": ["a", "a", "b", "b"],
        "rank": [1, 2, 1, 2],
        "train_image": [2, 1, 0, 2],
        "neighbour_class": ["a", "b", "a", "a"],
        "correct": [True, False, False, False],
        "similarity": [0.9, 0.8, 0.7, 0.6124],
    }


def test_right_and_wrong_neighbours_differ_in_colour_and_in_shape(tmp_path):
    queries, found = np.ones((2, 8, 8, 3)), np.ones((2, 3, 8, 8, 3))
    images = {}
    for flag in (True, False):
        path = tmp_path / f"{flag}.png"
        same = {"title": "the same for both", "captions": ["", ""], "numbers": pd.DataFrame()}
        nearest.draw_grid(queries, found, np.full((2, 3), flag), path, **same)
        images[flag] = pixels(path)
    assert count(images[True], canvas.GREEN) > 1000
    assert count(images[True], canvas.VERMILLION) == 0
    assert count(images[False], canvas.VERMILLION) > 1000
    assert count(images[False], canvas.GREEN) == 0
    # Without colour the mark in a neighbour's corner still tells them apart: ink or no ink.
    ink = {flag: image.min(-1) < 250 for flag, image in images.items()}
    assert (ink[True] != ink[False]).sum() > 100


# As a formula it would be an error, and a legend leaves out what starts with an underscore.
HOSTILE = r"_$\frac$"


def test_the_map_keeps_together_what_lies_together(tmp_path):
    # Three far clusters in 60 dimensions; the row that is no number is left out.
    labels = np.arange(45) % 3
    features = 10 * np.eye(3, 60)[labels] + 0.1 * RNG.random((45, 60))
    features[4, 59] = math.nan
    path = feature_map.draw(features, labels, ["a", "b", HOSTILE], tmp_path, title="")
    frame = numbers(path)
    assert list(frame["image"]) == [i for i in range(45) if i != 4]
    assert list(frame["class"]) == [["a", "b", HOSTILE][i % 3] for i in range(45) if i != 4]
    points = frame[["x", "y"]].to_numpy()
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(44, 1e9))
    index = frame["index"].to_numpy()
    assert (index[distances.argmin(1)] == index).all()


def test_of_many_classes_the_map_draws_twenty_and_of_many_images_some(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_map, "MAX_POINTS", 40)
    labels = np.repeat(np.arange(30), 3)
    features = RNG.random((90, 4))
    names = [f"a long name of class {i}" for i in range(30)]
    frame = numbers(feature_map.draw(features, labels, names, tmp_path, title=""))
    assert len(frame) == 40
    assert 13 < frame["index"].nunique() <= 20
    assert (frame["index"] == labels[frame["image"]]).all()


@pytest.mark.parametrize("features", [RNG.random((9, 3)), np.ones((50, 3))])
def test_too_few_images_or_collapsed_features_have_no_map(tmp_path, features):
    labels = np.zeros(len(features), int)
    assert feature_map.draw(features, labels, ["a"], tmp_path, title="") is None


STAR = "#F0E442"


@pytest.mark.parametrize(("chosen", "share"), [(None, 0.9), (0, 0.1)])
def test_the_star_marks_the_best_setting_or_the_one_that_was_chosen(tmp_path, chosen, share):
    # The best is the last of 11 C; a protocol that chooses by another measure says so itself.
    rows = [{"c": 10.0**i, "top1": 80 + i / 10} for i in range(-5, 6)]
    if chosen is not None:
        rows[chosen]["chosen"] = True
    path = sensitivity.draw(rows, tmp_path, title="")
    image = pixels(path)
    _, columns = places(image, STAR)
    assert columns.mean() / image.shape[1] == pytest.approx(share, abs=0.06)
    assert list(numbers(path)["c"]) == [10.0**i for i in range(-5, 6)]


def test_the_best_setting_is_not_called_chosen_where_nobody_says_so(tmp_path):
    rows = [{"c": 0.1, "top1": 50.0}, {"c": 1.0, "top1": 60.0}]
    unmarked = pixels(sensitivity.draw(rows, tmp_path, title=""))
    rows[1]["chosen"] = True
    marked = pixels(sensitivity.draw(rows, tmp_path, title=""))
    # The star stands where it stood; the heading is another.
    assert (np.array(places(marked, STAR)) == np.array(places(unmarked, STAR))).all()
    assert (marked != unmarked).any()


def test_settings_that_failed_are_marked_at_the_foot_and_do_not_squeeze_the_others(tmp_path):
    # One at 1 % that would need a scale of its own, two within a point, and one without a number.
    rows = [
        {"lr": lr, "weight_decay": 0.0, "top1": top1}
        for lr, top1 in ((0.1, 1.0), (1.0, 90.0), (10.0, 90.5), (100.0, None))
    ]
    path = sensitivity.draw(rows, tmp_path, title="")
    assert list(numbers(path)["top1"]) == ["1.0", "90.0", "90.5", ""]
    rows, columns = places(pixels(path), canvas.BLUE)
    # The marks of the first and the last, and between them the curve that leaves the picture.
    foot = np.unique(columns[rows > rows.max() - 20])
    assert (np.diff(foot) > 30).sum() + 1 == 3


GRID = [
    {"lr": lr, "weight_decay": decay, "feature": feature, "top1": 90 - abs(math.log10(lr)) - decay}
    for feature in ("pooled", "cls", "patch_mean", "pooled+cls")
    for decay in (0.0, 1e-6, 1e-4)
    for lr in (0.01, 0.1, 1.0)
]


def test_a_grid_has_a_line_each_weight_decay_and_a_panel_each_feature(tmp_path):
    one = sensitivity.draw([row for row in GRID if row["feature"] == "cls"], tmp_path, title="")
    width = pixels(one).shape[1]
    image = pixels(sensitivity.draw(GRID, tmp_path, title=""))
    # Three panels a row, of which the star is in the first.
    assert image.shape[1] > 1.8 * width
    assert places(image, STAR)[1].max() < image.shape[1] / 3
    for color in (canvas.BLUE, canvas.VERMILLION):
        columns = places(image, color)[1] * 3 // image.shape[1]
        assert set(columns) == {0, 1, 2}


def test_more_weight_decays_than_lines_make_a_heat_map(tmp_path):
    rows = [
        {"lr": lr, "weight_decay": decay, "top1": None if lr > 5 else 50 + lr + decay}
        for lr in range(1, 9)
        for decay in range(7)
    ]
    image = pixels(sensitivity.draw(rows, tmp_path, title=""))
    # The best is the darkest cell of the scale, and the chosen one.
    assert count(image, "#08306B") > 1000
    assert count(image, canvas.BLUE) == 0
    assert count(image, STAR) > 20


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"c": 1.0, "top1": 90.0}],
        [{"c": 1.0, "top1": 90.0}, {"c": 1.0, "top1": 91.0}],
        [{"c": 1.0, "top1": None}, {"c": 2.0, "top1": math.nan}],
        [{"c": 1.0, "loss": 1.0}, {"c": 2.0, "loss": 2.0}],
    ],
    ids=["none", "one", "one twice", "no numbers", "no accuracy"],
)
def test_where_nothing_was_swept_nothing_is_drawn(tmp_path, rows):
    assert sensitivity.draw(rows, tmp_path, title="") is None


def test_words_and_zeros_have_a_place_on_the_axis_too(tmp_path):
    rows = [{"feature": word, "top1": 50.0 + i} for i, word in enumerate(("pooled", "cls"))]
    assert sensitivity.draw(rows, tmp_path, title="")
    rows = [{"layers": [i, i + 1], "weight_decay": i / 1e4, "top1": 50.0 + i} for i in range(3)]
    path = sensitivity.draw(rows, tmp_path, title="")
    assert list(numbers(path)["layers"]) == ["[0, 1]", "[1, 2]", "[2, 3]"]


def test_a_long_name_keeps_its_beginning_and_its_end():
    assert canvas.shorten("two\nlines", 12) == "two lines"
    # 12 characters: 12 // 3 = 4 last ones, the ellipsis, and 7 first ones.
    assert canvas.shorten("tench, Tinca tinca", 12) == "tench,…inca"
    assert canvas.shorten("abcdefghijklmnop", 12) == "abcdefg…mnop"
