"""The pretraining loop, from images to a checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moco_eval import distributed
from moco_eval.data.splits import ImageData, TrainingImages
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import DataError, PreemptedError, UsageError
from moco_eval.optim import build_optimizer, parameters_of
from moco_eval.progress import Pace, Progress
from moco_eval.training.checkpoint import Checkpoints, State
from moco_eval.training.heartbeat import Heartbeat
from moco_eval.training.signals import StopRequest
from moco_eval.training.update import step as take_step
from pretrain import logs, methods, update
from pretrain.batches import Batch, Batches, DamagedImages, Views
from pretrain.collapse import embedding_statistics
from pretrain.methods import Method, Position
from pretrain.moco import MoCo
from pretrain.monitor import online_knn
from pretrain.recipes import Recipe
from pretrain.supervised import Supervised
from pretrain.views import Augmentation, augmentation

# How often in a run the spread of the embeddings is looked at.
NUM_LOOKS = 50


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is carried out; its result changes by no more than rounding.

    Attributes:
        num_workers: Processes that load images, for each rank; 0 loads them in the rank's own.
        knn_every: Epochs between two kNN evaluations on the labelled data; 0 for none.
        knn_limit: Images of each split that kNN looks at, evenly spread; 0 for all.
        save_every: Steps between two checkpoints, beside the one after each epoch; 0 for none.
        device: ``cpu`` or ``cuda``.
        compile: Compile the encoders, which pays on GPUs.
        recompute: Gradient checkpointing: less memory, a third more time. For MoCo's queue.
        accumulate: Parts that a process's queries are cut into, each with a backward pass of its
            own, for less memory. For MoCo's queue, whose groups normalise apart anyway.
        max_bad: How many damaged images the run bears.
        init_from: An encoder, as ``load_encoder`` takes it, to begin with instead of fresh weights.
        allow_world_size_change: Continue with another number of processes.
        tensorboard: Also write TensorBoard's event file.
    """

    num_workers: int = 0
    knn_every: int = 0
    knn_limit: int = 0
    save_every: int = 0
    device: str = "cpu"
    compile: bool = False
    recompute: bool = False
    accumulate: int = 1
    max_bad: int = 100
    init_from: str = ""
    allow_world_size_change: bool = False
    tensorboard: bool = False


def train(  # noqa: C901, PLR0913, PLR0915 - a story told from top to bottom, with all that it needs
    recipe: Recipe,
    data: TrainingImages,
    *,
    name: str,
    output: Path,
    seed: int,
    options: Options,
    stop: StopRequest | None = None,
) -> Path:
    """Train until the recipe's last epoch and return the checkpoint's path.

    The same call again continues from the newest checkpoint, or returns at once when done. In a run
    of several processes each makes this call.

    Args:
        recipe: What to train; ``name`` is what the checkpoint calls it.
        data: Its training images; labels are used by the supervised baseline and by kNN alone.
        name: The recipe's name.
        output: Folder of checkpoints, ``metrics.jsonl`` and pictures.
        seed: Decides initial weights and every draw.
        options: How to run.
        stop: Is looked at after each step; nobody asks to stop if left out.

    Raises:
        DataError: If there are fewer images than a batch, or too many are damaged.
        DivergedError: If loss or gradient is not finite; no step was taken with them.
        PreemptedError: If the process was asked to stop; the same call continues.
    """
    _refuse_impossible(recipe, data, options)
    stop = stop or StopRequest()
    is_first = distributed.rank() == 0
    drawing = augmentation(
        recipe.views,
        recipe.image_size,
        in_chans=recipe.in_chans,
        engine=recipe.view_engine,
        num_views=recipe.num_views,
    )
    given = load_encoder(options.init_from) if options.init_from else None
    state = _initial_state(recipe, data, seed, options, given)

    # A checkpoint in the output folder is this run's own, or the run is refused.
    checkpoints = Checkpoints(
        output,
        arch=recipe.arch,
        run={
            "method": recipe.method,
            "recipe": name,
            "config": recipe.numbers(),
            "input": dataclasses.asdict(drawing.spec),
            "data": f"{data.id} {data.train.fingerprint}",
            "init_from": given.tensor_sha256() if given else None,
            "seed": seed,
        },
    )
    steps_per_epoch = len(data.train) // recipe.batch_total
    num_steps = recipe.epochs * steps_per_epoch
    heart, pace = Heartbeat(output), Pace(recipe.batch_total)
    heart.beat("looking for a checkpoint")
    begun = checkpoints.resume(state, allow_world_size_change=options.allow_world_size_change)
    if begun and is_first:
        print(f"{checkpoints.folder}: {begun} of {num_steps} steps are done.", flush=True)
    if begun >= num_steps:
        if is_first:
            checkpoints.publish(begun)
        return checkpoints.final

    # What the network will see, before any time is spent on it.
    views = Views(data.train.images, drawing, seed=seed)
    if is_first:
        checkpoints.require_space(state)
        title = f"{recipe.views} views at {recipe.image_size} pixels, as the network sees them"
        logs.draw_views(views, title, output / "views.png")
    damaged = DamagedImages(output, data.train.images, max_bad=options.max_bad)
    batches = Batches(
        views,
        recipe.batch_total,
        steps=range(begun, num_steps),
        num_workers=options.num_workers,
        device=options.device,
    )
    labels = None
    if data.train.labels is not None:
        labels = torch.tensor(data.train.labels, device=options.device)
    top1_name = "train_top1" if recipe.method == "supervised" else "contrast_top1"
    progress = Progress(name, total=num_steps, done=begun, quiet=not is_first)
    state.model.train()
    with logs.keeping(output, progress, options.tensorboard) as log:
        heart.beat("loading the first batch")
        for step, batch in enumerate(pace.timed(batches), start=begun):
            # One update, unless a rank's numbers are not finite: all learn of it before.
            heart.beat(f"step {step}")
            position = Position(recipe, seed, step, steps_per_epoch)
            told = update.backward(state, batch, labels, position, num_parts=options.accumulate)
            agreed = update.agree(state, told, batch, is_stopped=bool(stop.reason))
            update.require_finite(agreed, batch, position, output)
            take_step(state, position.lr)
            damaged.note(batch, agreed.num_damaged)

            # What there is to see of it; at the end of an epoch the encoder is judged, if asked.
            row = {"step": step, "epoch": position.epoch, "lr": position.lr, "loss": agreed.loss}
            row |= {top1_name: agreed.top1} | pace.figures()
            done, ends_epoch = step + 1, (step + 1) % steps_per_epoch == 0
            if step % max(1, num_steps // NUM_LOOKS) == 0:
                row |= _embeddings(state.model, batch)
            if ends_epoch and _is_due(position.epoch + 1, options.knn_every, recipe.epochs):
                heart.beat("kNN")
                row["knn_top1"] = _knn(state.model, drawing, data, limit=options.knn_limit)
                pace.leave_out()
            log(row)

            # The state is saved after an epoch, when it is due, and before stopping.
            if ends_epoch or agreed.num_stopped or _is_due(done, options.save_every, num_steps):
                heart.beat(f"saving after step {step}")
                if is_first:
                    checkpoints.save(state, step=done, epoch=done // steps_per_epoch)
                pace.leave_out()
            if agreed.num_stopped and done < num_steps:
                raise PreemptedError(
                    f"Stopped by {stop.reason or 'a signal to another rank'} after step {done} of "
                    f"{num_steps}; the state is saved. The same command continues."
                )
    if is_first:
        checkpoints.publish(num_steps)
        print(logs.draw_curves(recipe, output, num_classes=len(data.classes)), flush=True)
    return checkpoints.final


def _refuse_impossible(recipe: Recipe, data: TrainingImages, options: Options) -> None:
    """Refuse what could only fail later, or would quietly do something else."""
    if len(data.train) < recipe.batch_total:
        raise DataError(
            f"{data.id} has {len(data.train)} training images, fewer than one batch of "
            f"{recipe.batch_total}. Take a smaller one: --set batch_total=..."
        )
    if recipe.method == "supervised" and data.train.labels is None:
        raise UsageError(f"{data.id} has no labels for the supervised baseline.")
    if options.knn_every and not isinstance(data, ImageData):
        raise UsageError(f"{data.id} has no labelled test images for kNN. Leave out --knn-every.")
    has_queue = recipe.method == "moco" and recipe.mechanism == "queue"
    if not has_queue and (options.accumulate > 1 or options.recompute):
        raise UsageError(
            "--accumulate and --recompute are for MoCo's queue, where each group normalises "
            "apart: elsewhere they would change what BatchNorm or the contrast sees."
        )
    groups = max(1, recipe.num_ranks // distributed.world_size())
    if groups % options.accumulate:
        raise UsageError(
            f"The {groups} virtual ranks of a process cannot be cut into --accumulate "
            f"{options.accumulate} equal parts."
        )


def _initial_state(
    recipe: Recipe, data: TrainingImages, seed: int, options: Options, given: Encoder | None
) -> State[Method]:
    model = methods.build(
        recipe, num_images=len(data.train), num_classes=len(data.classes), seed=seed
    )
    if given:
        methods.begin_with(model, given)
    if recipe.method != "moco":
        distributed.synchronize_batch_norm(model, options.device)
    if isinstance(model, MoCo):
        model.recompute = options.recompute
    # Convolutions run a third faster on this layout; what they compute is the same.
    model.to(options.device).to(memory_format=torch.channels_last)
    if options.compile:
        for encoder in methods.encoders_of(model):
            encoder.compile()
    optimizer = build_optimizer(
        recipe.optimizer,
        parameters_of(model),
        lr=recipe.peak_lr,
        weight_decay=recipe.weight_decay,
        sgd_momentum=recipe.sgd_momentum,
    )
    scaler = torch.amp.GradScaler(options.device, enabled=recipe.precision == "fp16")
    # Upstream saves what DistributedDataParallel wraps, hence its prefix.
    named = {"part": "encoder"} if isinstance(model, Supervised) else {"prefix": "module."}
    return State(model, optimizer, scaler, **named)


def _embeddings(model: Method, batch: Batch) -> dict[str, Any]:
    """The spread of the whole batch's embeddings."""
    if len(batch.views) < 2:
        return {}
    first, second = (distributed.gather(methods.embed(model, view)) for view in batch.views)
    if not first.isfinite().all():
        return {}  # the next step ends the run, and says why
    return dict(embedding_statistics(first, second))


def _knn(model: Method, drawing: Augmentation, data: TrainingImages, *, limit: int) -> float:
    assert isinstance(data, ImageData), "kNN without labels is refused at the start"
    encoder = methods.encoder_of(model)
    # Every rank follows its own groups' statistics; the run's are those of rank 0.
    for buffer in encoder.buffers():
        distributed.broadcast(buffer)
    return online_knn(
        encoder,
        drawing.spec,
        data,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        gather=distributed.gather_uneven,
        limit=limit or None,
    )


def _is_due(count: int, every: int, last: int) -> bool:
    return bool(every) and (count % every == 0 or count == last)
