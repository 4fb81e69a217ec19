import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moco_eval import canvas
from moco_eval.errors import OutputError
from moco_eval.pictures import alt_of
from moco_eval.pictures import pretraining as report


def pixels(path):
    """The picture's RGB values from 0 to 255, ``(H, W, 3)``."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        return np.asarray(image.convert("RGB")).astype(int)


def count(image, color):
    """How many pixels are of exactly this hexadecimal colour."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((image == rgb).all(-1).sum())


def busiest_row(image, color):
    return int(np.argmax([count(row, color) for row in image]))


@pytest.mark.parametrize("num_views", [1, 2])
def test_the_views_sheet_shows_each_view_with_its_own_colours(tmp_path, num_views):
    # Image i, view v is one flat colour; 9.0 must be clipped to 1, not wrapped.
    views = np.zeros((3, num_views, 8, 8, 3))
    for i in range(3):
        for v in range(num_views):
            views[i, v] = (i / 5, 9.0 * v, 0.6)
    report.views_sheet(views, tmp_path / "views.png", title="flat views")
    image = pixels(tmp_path / "views.png")
    for i in range(3):
        for v in range(num_views):
            assert count(image, f"#{51 * i:02x}{255 * v:02x}99") > 1000


def metrics(num_steps):
    return [
        {"step": i, "epoch": i // 10, "loss": 6.9 - i / 50, "contrast_top1": float(i)}
        for i in range(num_steps)
    ]


@pytest.mark.parametrize("num_steps", [1, 2, 100])
def test_the_pretraining_curve_has_its_numbers_beside_it(tmp_path, num_steps):
    report.pretraining_curve(
        metrics(num_steps), tmp_path / "loss.png", chance_loss=6.93, chance_top1=0.1
    )
    frame = pd.read_csv(tmp_path / "loss.csv")
    assert list(frame.columns) == ["step", "epoch", "loss", "contrast_top1"]
    assert len(frame) == num_steps
    assert frame["loss"][0] == 6.9
    # A single step makes no line.
    assert count(pixels(tmp_path / "loss.png"), canvas.BLUE) > 0 or num_steps == 1


def test_chance_is_drawn_at_its_own_height_in_each_panel(tmp_path):
    # The loss is that of guessing: its line and the dashed one lie on each other. The accuracy of
    # 20 % is far below the 50 % of guessing.
    rows = [{**row, "loss": 0.7, "contrast_top1": 20.0} for row in metrics(50)]
    report.pretraining_curve(rows, tmp_path / "loss.png", chance_loss=0.7, chance_top1=50.0)
    left, right = np.array_split(pixels(tmp_path / "loss.png"), 2, axis=1)
    assert abs(busiest_row(left, canvas.BLUE) - busiest_row(left, canvas.VERMILLION)) <= 2
    assert busiest_row(right, canvas.BLUE) - busiest_row(right, canvas.VERMILLION) > 100


def embedding_row(step, sd, rank, positive, negative):
    return {
        "step": step,
        "embedding_sd": sd,
        "effective_rank": rank,
        "positive_similarity": positive,
        "negative_similarity": negative,
    }


def test_the_embeddings_panel_draws_the_rows_that_have_statistics(tmp_path):
    looked = [embedding_row(0, 0.4, 20.0, 0.9, 0.8), embedding_row(5, 0.9, 60.0, 0.7, -0.1)]
    rows = [looked[0], *metrics(5)[1:], looked[1]]
    report.embeddings_panel(rows, tmp_path / "embeddings.png", dim=128)
    frame = pd.read_csv(tmp_path / "embeddings.csv")
    assert frame.to_dict("records") == looked


def test_healthy_embeddings_lie_on_the_upper_line_and_collapsed_ones_on_the_lower(tmp_path):
    for name, (sd, rank), color in (
        ("healthy", (1.0, 128.0), canvas.GREEN),
        ("collapsed", (0.0, 0.0), canvas.VERMILLION),
    ):
        rows = [embedding_row(step, sd, rank, 0.5, 0.5) for step in range(100)]
        report.embeddings_panel(rows, tmp_path / "embeddings.png", dim=128)
        panels = np.array_split(pixels(tmp_path / "embeddings.png"), 3, axis=1)
        for panel in panels[:2]:
            distance = abs(busiest_row(panel, canvas.BLUE) - busiest_row(panel, color))
            assert distance <= 3, name


def test_one_look_at_the_embeddings_is_enough_for_a_panel(tmp_path):
    report.embeddings_panel([embedding_row(0, 0.4, 20.0, -0.9, 0.8)], tmp_path / "one.png", dim=128)
    # A point alone makes no line: it must be a dot. The legend, with more blue, is on the right.
    left, *_ = np.array_split(pixels(tmp_path / "one.png"), 3, axis=1)
    assert count(left, canvas.BLUE) > 10


def test_the_knn_curve_starts_at_any_epoch_and_shows_chance(tmp_path):
    report.knn_curve([(5, 50.0)], tmp_path / "one.png", chance=10)
    report.knn_curve([(1, 50.0), (20, 97.5)], tmp_path / "knn.png", chance=10)
    assert count(pixels(tmp_path / "one.png"), canvas.VERMILLION) > 500
    frame = pd.read_csv(tmp_path / "knn.csv")
    assert frame.to_dict("list") == {
        "epoch": [1, 20],
        "knn_top1": [50.0, 97.5],
        "chance": [10, 10],
    }


def test_each_picture_says_what_it_shows(tmp_path):
    # Losses fall by 1/50 a step from 6.9; with two steps nothing is smoothed.
    report.pretraining_curve(metrics(2), tmp_path / "loss.png", chance_loss=6.93, chance_top1=0.1)
    assert alt_of(tmp_path / "loss.png") == (
        "Pretraining over 2 steps: loss from 6.90 to 6.88, where guessing has 6.93; contrastive"
        " top-1 from 0.0 to 1.0 %, where guessing has 0.1 %."
    )
    report.knn_curve([(1, 50.0), (20, 97.5)], tmp_path / "knn.png", chance=10)
    assert "from 50.0 % after 1 epochs to 97.5 % after 20" in alt_of(tmp_path / "knn.png")
    report.embeddings_panel([embedding_row(0, 0.4, 20.0, 0.9, -0.1)], tmp_path / "e.png", dim=64)
    assert "0.40, where 1 is even" in alt_of(tmp_path / "e.png")
    assert "rank 20 of 64; cosine 0.90 of the same image and -0.10" in alt_of(tmp_path / "e.png")
    report.views_sheet(np.zeros((3, 2, 8, 8, 3)), tmp_path / "views.png", title="black")
    assert alt_of(tmp_path / "views.png").startswith("2 views of each of 3 images")
    assert not (tmp_path / "views.csv").exists()


def test_a_picture_made_again_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        report.knn_curve([(1, 50.0), (2, 60.0)], tmp_path / name, chance=10)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        report.knn_curve([(1, 50.0)], tmp_path / "file" / "knn.png", chance=10)
