"""The pretraining loop, from images to a checkpoint."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from moco_eval import report, schedules
from moco_eval.data.catalog import ImageData
from moco_eval.data.images import denormalize
from moco_eval.data.sampler import EpochBatches, draw_key, keyed_generator
from moco_eval.errors import DataError, DivergedError
from moco_eval.recipes import as_dict
from pretrain import checkpoint
from pretrain.moco import MoCo
from pretrain.monitor import MetricsFile, online_knn, read_metrics
from pretrain.recipes import Recipe
from pretrain.supervised import Supervised, loss_and_top1
from pretrain.views import Views, input_of, view_function

LINE_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is carried out; none of it changes a bit of its result on one kind of device.

    Attributes:
        num_workers: Processes that load images; 0 loads them in this one.
        knn_every: Epochs between two kNN evaluations on the labelled data; 0 for none.
        device: ``cpu`` or ``cuda``.
    """

    num_workers: int = 0
    knn_every: int = 0
    device: str = "cpu"


def train(  # noqa: PLR0915 - a story told from top to bottom
    recipe: Recipe, data: ImageData, *, name: str, output: Path, seed: int, options: Options
) -> Path:
    """Train until the recipe's last epoch and return the checkpoint's path.

    The same call again continues from the last whole epoch, or returns at once when done.

    Args:
        recipe: What to train; ``name`` is what the checkpoint calls it.
        data: Its training images; labels are used by the supervised baseline and by kNN alone.
        name: The recipe's name.
        output: Folder of checkpoint, ``metrics.jsonl`` and pictures.
        seed: Decides initial weights and every draw.
        options: How to run.

    Raises:
        DataError: If there are fewer images than a batch.
        DivergedError: If the loss is not finite; the last checkpoint stays as it was.
    """
    if len(data.train) < recipe.batch_total:
        raise DataError(
            f"{data.id} has {len(data.train)} training images, fewer than one batch of "
            f"{recipe.batch_total}. Take a smaller one: --set batch_total=..."
        )

    model = _initial_model(recipe, data, seed)
    model.to(options.device)
    # Convolutions run a third faster on this layout; what they compute is the same.
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        recipe.lr,
        momentum=recipe.sgd_momentum,
        weight_decay=recipe.weight_decay,
    )

    # A checkpoint in the output folder is this run's own, or the run is refused.
    path = output / checkpoint.NAME
    spec = input_of(recipe.views, recipe.image_size)
    manifest = {
        "method": recipe.method,
        "recipe": name,
        "config": as_dict(recipe),
        "input": dataclasses.asdict(spec),
        "data": f"{data.id} {data.train.fingerprint}",
        "seed": seed,
    }
    first_epoch = 0
    if path.exists():
        first_epoch = checkpoint.resume(path, model, optimizer, manifest=manifest)
        print(f"{path}: {first_epoch} of {recipe.epochs} epochs are done.")
    if first_epoch >= recipe.epochs:
        return path

    # What the network will see, before any time is spent on it.
    views = Views(
        data.train.images,
        view_function(recipe.views, recipe.image_size),
        seed=seed,
        num_views=2 if recipe.method == "moco" else 1,
    )
    _draw_views(views, recipe, output / "views.png")

    batches = EpochBatches(
        len(views), recipe.batch_total, seed=seed, first_epoch=first_epoch, num_epochs=recipe.epochs
    )
    steps_per_epoch = batches.batches_per_epoch
    step = first_epoch * steps_per_epoch
    metrics = MetricsFile(output / "metrics.jsonl", first_step=step)
    loader = DataLoader(
        views,
        batch_sampler=batches,
        num_workers=options.num_workers,
        multiprocessing_context="fork" if options.num_workers else None,
    )
    labels = torch.tensor(data.train.labels, device=options.device)
    top1_name = "contrast_top1" if recipe.method == "moco" else "train_top1"
    progress = _Progress(name, total=recipe.epochs * steps_per_epoch, done=step)
    model.train()
    for *images, samples in loader:
        # One update at this step's learning rate.
        epoch = step // steps_per_epoch
        lr = recipe.lr * _schedule(recipe, epoch, step, steps_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs = [v.to(options.device, memory_format=torch.channels_last) for v in images]
        logits, targets = _forward(model, inputs, labels[samples], key=(seed, step))
        loss, top1 = loss_and_top1(logits, targets)
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"The loss is {loss.item()} at step {step} (lr {lr:.3g}). {path} still holds the "
                "last good epoch. Try a smaller lr: --set lr=..."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        row = {"step": step, "epoch": epoch, "lr": lr, "loss": loss.item(), top1_name: top1}
        step += 1

        # At the end of an epoch the state is saved and, if asked, judged.
        if step % steps_per_epoch == 0:
            done = epoch + 1
            if options.knn_every and (done % options.knn_every == 0 or done == recipe.epochs):
                row["knn_top1"] = online_knn(model.encoder, spec, data)
            checkpoint.save(path, model, optimizer, epoch=done, arch=recipe.arch, manifest=manifest)
        metrics.append(row)
        progress.show(row)
    progress.close()
    _draw_curves(recipe, data, output)
    return path


def _initial_model(recipe: Recipe, data: ImageData, seed: int) -> MoCo | Supervised:
    """The model before the first step: the seed alone decides it, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_key(seed))
        if recipe.method == "supervised":
            return Supervised(recipe.arch, len(data.classes))
        return MoCo(
            recipe.arch,
            recipe.dim,
            recipe.queue_size,
            recipe.key_momentum,
            recipe.temperature,
            recipe.mlp,
            virtual_ranks=recipe.virtual_ranks,
        )


def _forward(
    model: MoCo | Supervised, views: list[Tensor], labels: Tensor, *, key: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Logits and targets of one batch; ``key`` decides the shuffle."""
    logits: Tensor
    if isinstance(model, Supervised):
        logits, targets = model(views[0], labels)
    else:
        shuffle = torch.randperm(len(labels), generator=keyed_generator(*key, len(labels)))
        logits, targets = model(*views, permutation=shuffle.to(labels.device))
    return logits, targets


def _schedule(recipe: Recipe, epoch: int, step: int, steps_per_epoch: int) -> float:
    factor = schedules.warm_up(step, recipe.warmup_epochs * steps_per_epoch)
    if recipe.schedule == "cosine":
        return factor * schedules.cosine(epoch, recipe.epochs)
    return factor * schedules.step_drops(epoch, recipe.lr_drops)


def _draw_views(views: Views, recipe: Recipe, path: Path) -> None:
    """The first images' views of the first epoch, de-normalised."""
    spec = input_of(recipe.views, recipe.image_size)
    with torch.random.fork_rng(devices=[]):
        drawn = [views[0, sample][:-1] for sample in range(min(8, len(views)))]
    stacked = torch.stack([torch.stack([denormalize(v, spec) for v in pair]) for pair in drawn])
    report.views_sheet(
        stacked.permute(0, 1, 3, 4, 2).numpy(),
        path,
        title=f"{recipe.views} views at {recipe.image_size} pixels, as the network sees them",
    )


def _draw_curves(recipe: Recipe, data: ImageData, output: Path) -> None:
    rows = read_metrics(output / "metrics.jsonl")
    if recipe.method == "moco":
        report.pretraining_curve(rows, recipe.queue_size, output / "loss.png")
    points = [(row["epoch"] + 1, row["knn_top1"]) for row in rows if "knn_top1" in row]
    if points:
        report.knn_curve(points, output / "knn.png", chance=100 / len(data.classes))


class _Progress:
    """A bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, name: str, *, total: int, done: int) -> None:
        self.bar = tqdm(total=total, initial=done, desc=name, disable=None)
        self.name, self.total = name, total
        self.last_line_s = time.monotonic()

    def show(self, row: dict[str, Any]) -> None:
        shown = {name: value for name, value in row.items() if name not in ("step", "epoch")}
        text = " ".join(f"{name} {value:.3g}" for name, value in shown.items())
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        overdue = time.monotonic() - self.last_line_s > LINE_EVERY_S
        last = row["step"] + 1 == self.total
        if self.bar.disable and (overdue or last or "knn_top1" in row):
            print(f"{self.name}: step {row['step'] + 1}/{self.total} {text}", flush=True)
            self.last_line_s = time.monotonic()

    def close(self) -> None:
        self.bar.close()
