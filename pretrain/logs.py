"""What a run leaves to look at: numbers while it trains, pictures and a verdict at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from moco_eval import distributed
from moco_eval.data.images import denormalize
from moco_eval.pictures import pretraining as report
from moco_eval.progress import Progress
from moco_eval.training.metrics import MetricsFile, TensorBoardFile, read_metrics
from pretrain.batches import Views
from pretrain.collapse import verdict
from pretrain.monitor import tag
from pretrain.recipes import Recipe

NUM_SHOWN = 8


@contextmanager
def keeping(
    output: Path, progress: Progress, tensorboard: bool
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Take the numbers of each step, on rank 0, to terminal, ``metrics.jsonl`` and TensorBoard.

    Args:
        output: The run's folder.
        progress: What is shown on the terminal.
        tensorboard: Whether TensorBoard's event file is written, too.

    Yields:
        The function that takes a step's row.
    """
    if distributed.rank() > 0:
        yield lambda row: None
        return
    metrics = MetricsFile(output / "metrics.jsonl", first_step=progress.done)
    board = (
        TensorBoardFile(output / "tensorboard", first_step=progress.done, tag=tag)
        if tensorboard
        else None
    )

    def take(row: Mapping[str, Any]) -> None:
        metrics.append(row)
        if board:
            board.append(row)
        progress.show(row, at_once="knn_top1" in row)

    try:
        yield take
    finally:
        progress.close()
        if board:
            board.close()


def draw_views(views: Views, title: str, path: Path) -> None:
    """The first images' views of the first epoch, as the network sees them."""
    augmentation = views.augmentation
    with torch.random.fork_rng(devices=[]):
        drawn = [views[0, sample][:-1] for sample in range(min(NUM_SHOWN, len(views)))]
        batch = [torch.stack(part) for part in zip(*drawn, strict=True)]
        finished = augmentation.finish(batch, "cpu")
    pictures = torch.stack([denormalize(view, augmentation.spec) for view in finished], dim=1)
    pictures = pictures.expand(-1, -1, 3, -1, -1)  # luminance as grey
    report.views_sheet(pictures.permute(0, 1, 3, 4, 2).numpy(), path, title=title)


def draw_curves(recipe: Recipe, output: Path, *, num_classes: int) -> str:
    """Draw what ``metrics.jsonl`` holds, and return the verdict: one sentence, or none.

    Args:
        recipe: What was trained.
        output: The run's folder.
        num_classes: Of the labels that kNN was judged by.
    """
    rows = read_metrics(output / "metrics.jsonl")
    points = [(row["epoch"] + 1, row["knn_top1"]) for row in rows if "knn_top1" in row]
    if points:
        report.knn_curve(points, output / "knn.png", chance=100 / num_classes)
    if recipe.method == "supervised" or not rows:
        return ""
    choices = 1 + recipe.num_negatives
    scale = 4 * recipe.temperature if recipe.method == "mocov3" else 1.0
    chance = scale * math.log(choices)
    report.pretraining_curve(
        rows, output / "loss.png", chance_loss=chance, chance_top1=100 / choices
    )
    if any("effective_rank" in row for row in rows):
        report.embeddings_panel(rows, output / "embeddings.png", dim=recipe.dim)
    dim = min(recipe.dim, recipe.batch_total - 1)
    return verdict(rows, chance_loss=chance, dim=dim)
