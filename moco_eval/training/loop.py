"""The loop that fine-tunes a classifier, and the logits that it ends with."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler

from moco_eval import distributed
from moco_eval.data.images import InputSpec
from moco_eval.data.sampler import draw_key
from moco_eval.errors import DivergedError, PreemptedError, UsageError
from moco_eval.optim import build_optimizer
from moco_eval.progress import Pace, Progress
from moco_eval.training import update
from moco_eval.training.checkpoint import Checkpoints, State
from moco_eval.training.classifier import Classifier, parameter_groups, prepare
from moco_eval.training.crops import Places, TrainingCrops, mix
from moco_eval.training.loading import EvaluationCrops, load
from moco_eval.training.recipe import Plan
from moco_eval.training.signals import StopRequest

# What a kill that nobody announced may cost; being asked to stop costs nothing.
SAVE_EVERY_S = 300.0
BATCH_TEST = 256

ADVICE = 'Try a smaller learning rate: --set "lr=[...]"; or, in fp16, --set precision=bf16'


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and where it lives.

    Attributes:
        name: What progress calls it.
        folder: Of its checkpoints.
        arch: What they call the encoder.
        run: What it is, as JSON holds it: another one's checkpoints are refused.
        seed: Decides every draw.
        num_workers: Processes that load images, for each rank.
    """

    name: str
    folder: Path
    arch: str
    run: Mapping[str, Any]
    seed: int
    num_workers: int


def fit(model: Classifier, plan: Plan, crops: TrainingCrops, job: Job) -> None:
    """Train ``model`` to the plan's last step, from the newest checkpoint where there is one.

    In a run of several processes each makes this call.

    Raises:
        UsageError: If the recipe does not fit the network or the number of processes.
        DivergedError: If loss or gradient is not finite; no step was taken with them.
        PreemptedError: If the process was asked to stop; the same call continues.
        DataError: If an image cannot be loaded.
    """
    recipe, num_steps = plan.recipe, plan.num_steps
    _require_shares(plan)
    is_first, device = distributed.rank() == 0, model.device
    state = _initial_state(model, plan)
    checkpoints = Checkpoints(job.folder, arch=job.arch, run=job.run, option="--work")
    # Other processes form the same sums in another order: the last digits may differ, no more.
    begun = checkpoints.resume(state, allow_world_size_change=True)
    if begun and is_first:
        print(f"{checkpoints.folder}: {begun} of {num_steps} steps are done.", flush=True)
    if is_first and begun < num_steps:
        checkpoints.require_space(state)

    places = Places(
        plan.num_images,
        recipe.batch_total,
        seed=job.seed,
        steps=range(begun, num_steps),
        repeats=recipe.repeats,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    batches = load(crops, places, num_workers=job.num_workers, device=device.type)
    progress = Progress(job.name, total=num_steps, done=begun, quiet=not is_first)
    pace, saved_s = Pace(recipe.batch_total), time.monotonic()
    own = [device] if device.type == "cuda" else []
    with (
        closing(progress),
        StopRequest().listening() as stop,
        torch.random.fork_rng(devices=own),
    ):
        for step, batch in enumerate(pace.timed(batches), start=begun):
            # One update, unless a rank's numbers are not finite: all learn of it before.
            loss = backward(state, batch, plan, seed=job.seed, step=step)
            told = torch.stack([loss.double(), loss.new_tensor(bool(stop.reason)).double()])
            sums, norm = update.agree(state, told)
            loss_mean, num_stopped = sums[0].item() / distributed.world_size(), int(sums[1].item())
            _require_finite(loss_mean, norm, plan, step)
            update.step(state, plan.lr(step))
            progress.show({"lr": plan.lr(step), "loss": loss_mean} | pace.figures())

            # The state is saved now and then, before stopping and at the end.
            done = step + 1
            overdue = time.monotonic() - saved_s > SAVE_EVERY_S
            if is_first and (overdue or num_stopped or done == num_steps):
                checkpoints.save(state, step=done, epoch=int(done / plan.steps_per_epoch))
                saved_s = time.monotonic()
            if num_stopped and done < num_steps:
                raise PreemptedError(
                    f"Stopped by {stop.reason or 'a signal to another rank'} after step {done} of "
                    f"{num_steps}; the state is saved. The same command continues."
                )


def backward(
    state: State[Classifier], batch: Sequence[Tensor], plan: Plan, *, seed: int, step: int
) -> Tensor:
    """Leave the mean gradient of this process's images in the parameters, and return their loss.

    Args:
        state: Model, optimizer and scaler.
        batch: Images ``(N, C, H, W)`` and labels ``(N,)``.
        plan: Its recipe mixes and smoothes.
        seed: Decides the draws, with the step.
        step: The update's number.
    """
    model, recipe = state.model, plan.recipe
    images = batch[0].to(model.device, memory_format=torch.channels_last)
    targets = batch[1].to(model.device)
    smoothing = recipe.label_smoothing
    if recipe.mixup or recipe.cutmix:
        num_classes = model.head.out_features
        targets = mix(images, targets, recipe, num_classes=num_classes, key=draw_key(seed, step, 2))
        smoothing = 0.0
    # What draws inside the network, such as stochastic depth, differs by rank.
    torch.manual_seed(draw_key(seed, step, distributed.rank(), 3))
    state.optimizer.zero_grad()
    with update.mixed_precision(recipe.precision, model.device.type):
        logits = model(images)
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@torch.no_grad()
def predict(
    model: Classifier,
    images: Sequence[Image.Image],
    spec: InputSpec,
    *,
    precision: str = "fp32",
    num_workers: int = 0,
) -> Tensor:
    """Logits ``(M, C)`` of every image once, in their order, on the CPU of every rank.

    Args:
        model: Is in eval mode afterwards.
        images: Each rank takes a share, unpadded.
        spec: How the encoder is fed.
        precision: What the network computes in.
        num_workers: Processes that load images, for each rank.

    Raises:
        DivergedError: If a logit is not finite.
    """
    model.eval()
    rank, world_size = distributed.rank(), distributed.world_size()
    share = range(len(images) * rank // world_size, len(images) * (rank + 1) // world_size)
    order = BatchSampler(share, BATCH_TEST, drop_last=False)
    device = model.device
    parts = [torch.zeros(0, model.head.out_features, device=device)]
    crops = EvaluationCrops(images, spec)
    for (inputs,) in load(crops, order, num_workers=num_workers, device=device.type):
        with update.mixed_precision(precision, device.type):
            logits = model(inputs.to(device, memory_format=torch.channels_last))
        parts.append(logits.float())
    gathered = torch.cat(distributed.gather_uneven(torch.cat(parts))).cpu()
    assert len(gathered) == len(images), f"{len(gathered)} logits of {len(images)} images"
    if not gathered.isfinite().all():
        raise DivergedError(f"The logits are not finite. {ADVICE}")
    return gathered


def _initial_state(model: Classifier, plan: Plan) -> State[Classifier]:
    recipe = plan.recipe
    prepare(model, drop_path=recipe.drop_path, batch_norm_momentum=plan.batch_norm_momentum)
    groups = parameter_groups(
        model,
        weight_decay=plan.weight_decay,
        layer_decay=recipe.layer_decay,
        decay_vectors=recipe.decay_vectors,
        head_lr_factor=recipe.head_lr_factor,
    )
    optimizer = build_optimizer(
        recipe.optimizer, groups, lr=recipe.lr[0], weight_decay=plan.weight_decay
    )
    scaler = torch.amp.GradScaler(model.device.type, enabled=recipe.precision == "fp16")
    return State(model, optimizer, scaler)


def _require_shares(plan: Plan) -> None:
    recipe, world_size = plan.recipe, distributed.world_size()
    mixes = bool(recipe.mixup or recipe.cutmix)
    multiple = world_size * (2 if mixes else 1)
    if recipe.batch_total % multiple:
        pairs = ", each of which mixes pairs of images" if mixes else ""
        raise UsageError(
            f"A batch of {recipe.batch_total} cannot be shared out among {world_size} "
            f"processes{pairs}. Take a multiple of {multiple}: --set batch_total=..."
        )


def _require_finite(loss: float, norm: float, plan: Plan, step: int) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise DivergedError(
        f"The loss is {loss} and the gradient's norm {norm} at step {step} of {plan.num_steps} "
        f"(lr {plan.lr(step):.3g}); no update was made with them. {ADVICE}"
    )
