"""The loop that trains any dense model, and continues as if it had never been stopped."""

from __future__ import annotations

import json
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval import distributed
from moco_eval.data.sampler import draw_key
from moco_eval.engines.optimizer import build_optimizer
from moco_eval.engines.precise_bn import update_statistics
from moco_eval.engines.recipe import Training
from moco_eval.errors import DivergedError, PreemptedError
from moco_eval.files import write_text
from moco_eval.progress import Pace, Progress
from moco_eval.training import update
from moco_eval.training.checkpoint import Checkpoints, State
from moco_eval.training.metrics import MetricsFile, TensorBoardFile, read_metrics
from moco_eval.training.signals import StopRequest

METRICS = "metrics.jsonl"
UNFINISHED = "metrics.unfinished.json"
ROW_EVERY_STEPS = 20
# What a kill that nobody announced may cost; being asked to stop costs nothing.
SAVE_EVERY_S = 300.0

Batches = Callable[[range], Iterator[Any]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and where it lives.

    Attributes:
        name: What progress calls it.
        folder: Of its checkpoints, ``metrics.jsonl`` and TensorBoard's files.
        arch: What the checkpoints call the encoder.
        run: What it is, as JSON holds it: another one's checkpoints are refused.
        seed: Decides every draw.
    """

    name: str
    folder: Path
    arch: str
    run: Mapping[str, Any]
    seed: int


def fit(model: nn.Module, training: Training, batches: Batches, job: Job) -> dict[str, Any]:
    """Train ``model`` to the last step, from the newest checkpoint where there is one.

    In a run of several processes each makes this call. The last checkpoint holds the model with
    BatchNorm's statistics made precise: a run that is killed while it is evaluated trains no more.

    Args:
        model: Called with a batch in training mode, it returns named losses. What is not to be
            trained has no gradient.
        training: How many steps at which learning rate.
        batches: Called with a range of steps, this rank's batch of each: always the same for the
            same step. Steps after the last are asked for, for BatchNorm.
        job: Where it lives.

    Returns:
        What a record should say of it.

    Raises:
        DivergedError: If a loss or the gradient is not finite; no step was taken with them.
        PreemptedError: If the process was asked to stop; the same call continues.
        DataError: If an image cannot be loaded.
    """
    num_steps, is_first = training.num_iterations, distributed.rank() == 0
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    state = State(model, build_optimizer(model, training), scaler)
    checkpoints = Checkpoints(job.folder, arch=job.arch, run=job.run, option="--work")
    begun = checkpoints.resume(state, allow_world_size_change=True)
    if begun and is_first:
        told = f"{min(begun, num_steps)} of {num_steps} steps are done"
        print(f"{checkpoints.folder}: {told}.", flush=True)
    if is_first and begun <= num_steps:
        checkpoints.require_space(state)

    model.train()
    begun_s = time.monotonic()
    own = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=own), StopRequest().listening() as stop:
        run = _Run(state, training, batches, job, checkpoints, stop)
        if begun < num_steps:
            _train(run, begun)
        # The running averages lag behind the weights; what is judged has exact ones.
        if begun <= num_steps and training.precise_bn_batches:
            torch.manual_seed(draw_key(job.seed, num_steps, distributed.rank()))
            extra = range(num_steps, num_steps + training.precise_bn_batches)
            update_statistics(model, _until_stopped(batches(extra), stop, device))
        if begun <= num_steps and is_first:
            checkpoints.save(state, step=num_steps + 1, epoch=0)
    rows = read_metrics(job.folder / METRICS) if is_first else []
    final = {name: value for name, value in (rows[-1] if rows else {}).items() if "loss" in name}
    return {
        "final_losses": final,
        "train_s": round(time.monotonic() - begun_s, 1),
        "resumed_at_step": begun or None,
    }


@dataclass(frozen=True)
class _Run:
    state: State[nn.Module]
    training: Training
    batches: Batches
    job: Job
    checkpoints: Checkpoints
    stop: StopRequest


def _train(run: _Run, begun: int) -> None:
    state, training, is_first = run.state, run.training, distributed.rank() == 0
    num_steps, device = training.num_iterations, next(state.model.parameters()).device
    pace, saved_s = Pace(training.batch_total), time.monotonic()
    progress = Progress(run.job.name, total=num_steps, done=begun, quiet=not is_first)
    with closing(_Log(run.job.folder, progress)) as log:
        for step, batch in enumerate(pace.timed(run.batches(range(begun, num_steps))), start=begun):
            # One update, unless a rank's numbers are not finite: all learn of it before.
            torch.manual_seed(draw_key(run.job.seed, step, distributed.rank()))
            losses = _backward(state, batch, training, step)
            values = [loss.detach().double() for loss in losses.values()]
            stopped = torch.tensor(float(bool(run.stop.reason)), dtype=torch.double, device=device)
            sums, norm = update.agree(state, torch.stack([*values, stopped]))
            means = (sums[:-1] / distributed.world_size()).tolist()
            if not (all(map(math.isfinite, means)) and math.isfinite(norm)):
                raise _diverged(training, step)
            update.step(state, training.lr_at(step))
            log.add(
                step, dict(zip(losses, means, strict=True)), training.lr_at(step), pace.figures()
            )

            # The state is saved now and then, and before stopping.
            done, num_stopped = step + 1, int(sums[-1].item())
            overdue = time.monotonic() - saved_s > SAVE_EVERY_S and done % ROW_EVERY_STEPS == 0
            if num_stopped:
                log.leave(done)
            if is_first and (overdue or num_stopped or done == num_steps):
                run.checkpoints.save(state, step=done, epoch=0)
                saved_s = time.monotonic()
            if num_stopped:
                raise PreemptedError(
                    f"Stopped by {run.stop.reason or 'a signal to another rank'} after step {done} "
                    f"of {num_steps}; the state is saved. The same command continues."
                )


def _backward(
    state: State[nn.Module], batch: Any, training: Training, step: int
) -> dict[str, Tensor]:
    """Leave the gradient of this rank's batch in the parameters, and return its losses."""
    state.optimizer.zero_grad()
    try:
        losses: dict[str, Tensor] = state.model(batch)
    except FloatingPointError as error:
        # Detectron2's own check of its proposals, in the middle of what ranks do together: they
        # cannot be told before this one ends.
        raise _diverged(training, step) from error
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    if distributed.world_size() > 1:
        # Gradients are added up in one piece, to which every rank must bring the same ones.
        for parameter in state.model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    return losses


def _until_stopped(
    batches: Iterator[Any], stop: StopRequest, device: torch.device
) -> Iterator[Any]:
    """The batches of what is not saved in parts: the last checkpoint is from before them."""
    for batch in batches:
        asked = torch.tensor(float(bool(stop.reason)), device=device)
        if distributed.total(asked).item():
            raise PreemptedError(
                f"Stopped by {stop.reason or 'a signal to another rank'} after the last step; the "
                "state is saved. The same command continues."
            )
        yield batch


def _diverged(training: Training, step: int) -> DivergedError:
    return DivergedError(
        f"The loss is not finite at update {step} of {training.num_iterations} (lr "
        f"{training.lr_at(step):.3g}); no update was made with it. Try a smaller learning rate or "
        "a longer warm-up: --set lr=... --set warmup_iterations=..."
    )


class _Log:
    """Each step's losses to the terminal, and means of twenty to two files, on rank 0.

    Args:
        folder: Of the run.
        progress: Begins where the run does.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress
        self.is_first = distributed.rank() == 0
        self.since: list[dict[str, float]] = []
        if self.is_first:
            self.metrics = MetricsFile(folder / METRICS, first_step=progress.done)
            self.board = TensorBoardFile(folder / "tensorboard", first_step=progress.done)
            self.since = _left(folder / UNFINISHED, progress.done)

    def add(
        self, step: int, losses: dict[str, float], lr: float, figures: dict[str, float]
    ) -> None:
        """Take a step's mean losses over all ranks."""
        self.since.append(losses)
        self.progress.show({"loss": sum(losses.values()), "lr": lr} | figures)
        if (step + 1) % ROW_EVERY_STEPS and step + 1 < self.progress.total:
            return
        means = {name: statistics.fmean(row[name] for row in self.since) for name in losses}
        self.since.clear()
        row = {name: round(value, 5) for name, value in means.items()}
        row |= {"lr": lr, "memory_mib": _memory_mib()} | figures
        if self.is_first:
            self.metrics.append({"step": step, **row})
            self.board.append({"step": step, **row})

    def leave(self, done: int) -> None:
        """Leave what no row holds yet to the process that continues after ``done`` steps."""
        if self.is_first:
            text = json.dumps({"done": done, "losses": self.since})
            write_text(self.folder / UNFINISHED, text)

    def close(self) -> None:
        """Leave the terminal and the files as they should be."""
        self.progress.close()
        if self.is_first:
            self.board.close()


def _left(path: Path, done: int) -> list[dict[str, float]]:
    """The losses of the steps since the last row, where a run was stopped after ``done`` steps."""
    left = json.loads(path.read_text()) if path.exists() else {}
    losses: list[dict[str, float]] = left["losses"] if left.get("done") == done else []
    return losses


def _memory_mib() -> int:
    """The most that this process has held: on the GPU, or of the machine's memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
