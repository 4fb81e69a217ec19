"""Pictures of a detector's or a segmenter's numbers."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moco_eval import canvas, pictures
from moco_eval.pictures import by_class, by_size, confusion, curves, precision_recall


def numbers(path):
    return pd.read_csv(path.with_suffix(".csv"), keep_default_na=False)


def count(path, color):
    """How many of the picture's pixels are of exactly this hexadecimal colour."""
    with Image.open(path) as image:
        found = np.asarray(image.convert("RGB")).astype(int)
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((found == rgb).all(-1).sum())


# Three classes, of which the test set does not show the second.
DRAWN = {
    "AP_by_class": np.array([30.0, math.nan, 50.0]),
    "AP_by_size": np.array([10.0, math.nan, 40.0]),
    "precision": np.array([[1.0] * 51 + [0.0] * 50, [math.nan] * 101, [0.5] * 101]),
    # Four cats: two found, one taken for an owl, one missed. Two owls, both found. Of no object:
    # three cats.
    "box_confusion": np.array([[2, 0, 1, 1], [0, 0, 0, 0], [0, 0, 2, 0], [3, 0, 0, 0]]),
}
NAMES = ("cat", "dog", "owl")
ROWS = [
    {"step": 19, "loss_cls": 2.0, "loss_rpn": 1.0, "lr": 0.1},
    {"step": 39, "loss_cls": 9.0, "loss_rpn": 9.0, "lr": 9.0},
    {"step": 39, "loss_cls": 1.0, "loss_rpn": 0.5, "lr": 0.1, "wait": "no number"},
    {"step": 59, "loss_cls": 0.5, "loss_rpn": 0.25, "lr": 0.01, "images_per_s": 7.0},
]


def write_metrics(folder, rows=ROWS, end='{"step": 79, "loss_c'):
    folder.mkdir(exist_ok=True)
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def draw_scenes(folder, drawn, classes=NAMES, **more):
    keywords = {"classes": classes, "scenes": None, "results": [], "title": "x on y"} | more
    return [path.name for path in pictures.draw_scenes(drawn, folder=folder, **keywords)]


def test_all_that_a_detectors_arrays_allow_is_drawn_and_described(tmp_path):
    write_metrics(tmp_path)
    of_masks = {f"{name}_mask": DRAWN[name] for name in ("AP_by_class", "precision", "AP_by_size")}
    names = draw_scenes(tmp_path, DRAWN | of_masks | {"unknown": 3})
    assert names == [
        "per_class.png",
        "precision_recall.png",
        "per_class_mask.png",
        "precision_recall_mask.png",
        "confusion.png",
        "AP_by_size.png",
        "training.png",
    ]
    for name in names:
        assert (tmp_path / name).with_suffix(".csv").exists()
        alt = pictures.alt_of(tmp_path / name)
        assert alt.endswith(".")
        assert "\n" not in alt


def test_what_has_no_array_or_no_numbers_is_left_out(tmp_path):
    assert draw_scenes(tmp_path, {}) == []
    nothing = {
        "AP_by_class": np.full(3, math.nan),
        "AP_by_size": np.full(3, math.nan),
        "precision": np.full((3, 101), math.nan),
        "box_confusion": np.zeros((4, 4), int),
        "F1_by_image": np.full(1, math.nan),
    }
    scenes = SimpleNamespace(scenes=[SimpleNamespace(crowd=np.zeros(0, bool))], category_ids=())
    assert draw_scenes(tmp_path, nothing, scenes=scenes) == []
    assert list(tmp_path.iterdir()) == []


def test_a_class_beyond_the_names_is_called_by_its_number(tmp_path):
    draw_scenes(tmp_path, DRAWN, classes=("cat",))
    assert set(numbers(tmp_path / "per_class.png")["class"]) == {"cat", "1", "2"}
    assert set(numbers(tmp_path / "confusion.png")["true"]) == {"cat", "2", "background"}


def test_pictures_made_again_have_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        write_metrics(tmp_path / name)
        draw_scenes(tmp_path / name, DRAWN)
    made = sorted((tmp_path / "one").iterdir())
    assert len(made) == 2 * 5 + 1
    for path in made:
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def test_average_precision_by_class_is_sorted_and_says_what_is_missing(tmp_path):
    draw_scenes(tmp_path, {"AP_by_class": DRAWN["AP_by_class"]})
    path = tmp_path / "per_class.png"
    assert numbers(path).to_dict("list") == {
        "index": [2, 0, 1],
        "class": ["owl", "cat", "dog"],
        "AP": ["50.0", "30.0", ""],
    }
    assert pictures.alt_of(path) == (
        "Average precision of 2 classes, mean 40.0 %, from owl with 50.0 to cat with 30.0."
    )


def test_a_single_class_has_a_bar_and_no_mean(tmp_path):
    keywords = {"title": "", "measure": ("AP", "Average precision")}
    one = by_class.draw_values(np.array([50.0]), ["a"], tmp_path / "one.png", **keywords)
    two = by_class.draw_values(np.array([50.0, 50]), ["a", "b"], tmp_path / "two.png", **keywords)
    assert count(one, canvas.BLUE) > 1000
    assert count(one, canvas.VERMILLION) == 0
    assert count(two, canvas.VERMILLION) > 20
    assert pictures.alt_of(one) == "Average precision of 1 class, mean 50.0 %."


def test_average_precision_by_size_has_a_bar_a_kind_and_none_where_there_is_none(tmp_path):
    kinds = {"boxes": DRAWN["AP_by_size"], "masks": np.array([5.0, math.nan, 30.0])}
    path = by_size.draw(kinds, tmp_path / "AP_by_size.png", title="")
    table = numbers(path)
    assert table["of"].tolist() == ["boxes"] * 3 + ["masks"] * 3
    assert table["size"].tolist() == ["small", "medium", "large"] * 2
    assert table["AP"].tolist() == ["10.0", "", "40.0", "5.0", "", "30.0"]
    assert pictures.alt_of(path) == (
        "Average precision by the size of objects, in percent: small boxes 10.0, large boxes 40.0, "
        "small masks 5.0, large masks 30.0."
    )


def test_a_single_kind_of_answers_is_called_by_no_name(tmp_path):
    draw_scenes(tmp_path, {"AP_by_size_mask": DRAWN["AP_by_size"]})
    assert set(numbers(tmp_path / "AP_by_size.png")["of"]) == {"objects"}


def test_a_bar_twice_as_high_has_twice_the_ink(tmp_path):
    ink = [
        count(by_size.draw({"boxes": values}, tmp_path / "a.png", title=""), canvas.BLUE)
        for values in (np.array([60.0, 0, 0]), np.array([60.0, 60, 0]))
    ]
    assert ink[1] == pytest.approx(2 * ink[0], rel=0.02)


def test_precision_by_recall_holds_each_class_and_their_mean(tmp_path):
    path = precision_recall.draw(DRAWN["precision"], NAMES, tmp_path / "pr.png", title="")
    table = numbers(path)
    # The dog has no curve, and the mean is of the other two.
    assert list(table.columns) == ["recall", "mean", "cat", "owl"]
    assert len(table) == 101
    assert table.iloc[50].tolist() == [0.5, 0.75, 1.0, 0.5]
    assert table.iloc[51].tolist() == [0.51, 0.25, 0.0, 0.5]
    # 51 of 101 recalls at 100 %, and all of them at 50 %.
    assert pictures.alt_of(path) == (
        "Precision by recall at IoU 0.5 of 2 classes, area under their mean 50.2 %, from cat with "
        "50.5 to owl with 50.0."
    )


@pytest.mark.parametrize(("num_classes", "num_told"), [(1, 1), (6, 6), (20, 6), (1230, 6)])
def test_of_many_classes_the_best_and_the_worst_curves_are_told_apart(
    tmp_path, num_classes, num_told
):
    precision = np.linspace(0.1, 0.9, num_classes)[:, None].repeat(101, axis=1)
    names = [f"class {i} of a rather long name" for i in range(num_classes)]
    path = precision_recall.draw(precision, names, tmp_path / "pr.png", title="")
    assert numbers(path).shape == (101, 2 + num_classes)
    told = [look["color"] for look in pictures.precision_recall.LINES[:5]]
    assert sum(count(path, color) > 100 for color in told) == min(num_told, 5)


def test_the_confusion_of_boxes_has_what_is_missed_and_what_is_not_there(tmp_path):
    draw_scenes(tmp_path, {"box_confusion": DRAWN["box_confusion"]})
    path = tmp_path / "confusion.png"
    assert numbers(path).to_dict("list") == {
        "true": ["cat", "cat", "cat", "owl", "background"],
        "predicted": ["cat", "owl", "background", "owl", "cat"],
        "true_index": [0, 0, 0, 2, 3],
        "predicted_index": [0, 2, 3, 2, 0],
        "n": [2, 1, 1, 2, 3],
        "share": [50.0, 25.0, 25.0, 100.0, 100.0],
    }
    # The background is no class that another is taken for.
    assert pictures.alt_of(path) == (
        "Matrix of 4 classes and what each is taken for; most often cat is taken for owl, 1 of 4 "
        "objects."
    )


def test_of_many_classes_what_is_confused_missed_and_not_there_have_bars_of_their_own(tmp_path):
    names = [f"a class of a rather long name {i}" for i in range(30)]
    counts = 10 * np.eye(31, dtype=int)
    heights = []
    for row, column in ((2, 7), (3, 30), (30, 4)):
        counts[row, column] = 5
        path = confusion.draw_boxes(counts, names, tmp_path / "confusion.png", title="")
        with Image.open(path) as image:
            heights.append(image.height)
    # Each new kind gets a part of its own below the last.
    assert heights[0] < heights[1] < heights[2]
    assert len(numbers(path)) == 34
    counts[:] = 10 * np.eye(31, dtype=int)
    assert confusion.draw_boxes(counts, names, tmp_path / "none.png", title="") is None


def test_the_confusion_of_pixels_is_a_share_of_each_classs_pixels(tmp_path):
    counts = np.array([[6, 2], [0, 8]])
    drawn = {"label_confusion": counts, "IoU_by_class": np.array([75.0, 80.0])}
    keywords = {"classes": ("a", "b"), "split": None, "folder": tmp_path, "title": ""}
    write_metrics(tmp_path)
    made = pictures.draw_maps(drawn, **keywords)
    assert [path.name for path in made] == ["per_class.png", "confusion.png", "training.png"]
    assert numbers(made[0]).to_dict("list") == {
        "index": [1, 0],
        "class": ["b", "a"],
        "IoU": [80.0, 75.0],
    }
    table = numbers(made[1])
    assert table[["true", "predicted", "n", "share"]].to_numpy().tolist() == [
        ["a", "a", 6, 75.0],
        ["a", "b", 2, 25.0],
        ["b", "b", 8, 100.0],
    ]


def test_training_curves_take_a_steps_last_row_and_no_torn_line(tmp_path):
    path = curves.draw(write_metrics(tmp_path), tmp_path / "training.png", title="")
    table = numbers(path)
    assert table["step"].tolist() == [19, 39, 59]
    assert table["loss_cls"].tolist() == [2.0, 1.0, 0.5]
    assert table["loss_rpn"].tolist() == [1.0, 0.5, 0.25]
    assert table["lr"].tolist() == [0.1, 0.1, 0.01]
    assert "wait" not in table
    assert pictures.alt_of(path) == "Training losses over 60 steps, their sum from 3 to 0.75."
    # Two losses, in the first two colours; what is no loss has no line.
    used = [count(path, look["color"]) > 300 for look in curves.LINES[:3]]
    assert used == [True, True, False]


@pytest.mark.parametrize(
    "rows", [[], ROWS[:1], [{"step": 1, "lr": 0.1}, {"step": 2, "lr": 0.1}]], ids=len
)
def test_less_than_two_steps_with_a_loss_make_no_curve(tmp_path, rows):
    assert curves.draw(write_metrics(tmp_path, rows), tmp_path / "a.png", title="") is None
    assert curves.draw(tmp_path / "missing.jsonl", tmp_path / "a.png", title="") is None


def test_a_single_outlier_does_not_flatten_the_curves(tmp_path):
    def ink_above_the_middle(first):
        rows = [{"step": i, "loss": 1.0 if i else first} for i in range(1000)]
        path = curves.draw(write_metrics(tmp_path, rows), tmp_path / "a.png", title="")
        with Image.open(path) as image:
            found = np.asarray(image.convert("RGB"))[: image.height // 2, : image.width // 2]
        return (found == (0, 114, 178)).all(-1).sum()

    assert ink_above_the_middle(1.0) > 300
    assert ink_above_the_middle(1e4) > 300


def test_a_picture_keeps_its_meaning_in_words_of_any_language(tmp_path):
    figure = canvas.Figure(figsize=(2, 1))
    said = "Bäume → 木, 3 % ≤ 5 %."
    path = pictures.writing.write(
        figure, tmp_path / "a.png", title="x", alt=f"{said}\n", numbers=pd.DataFrame({"a": [1]})
    )
    assert pictures.alt_of(path) == said
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    assert pictures.alt_of(tmp_path / "plain.png") == ""
