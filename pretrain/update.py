"""One update: a backward pass, an agreement of all ranks, and a step of the optimizer."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moco_eval import distributed
from moco_eval.data.sampler import draw_key
from moco_eval.errors import DivergedError
from moco_eval.files import write_text
from moco_eval.training import update
from moco_eval.training.checkpoint import State
from pretrain import methods, shuffle
from pretrain.batches import Batch
from pretrain.methods import Method, Position
from pretrain.moco import MoCo


def backward(
    state: State[Method],
    batch: Batch,
    labels: Tensor | None,
    position: Position,
    *,
    num_parts: int = 1,
) -> tuple[Tensor, Tensor]:
    """Leave this process's mean gradient in the parameters.

    Args:
        state: Model, optimizer and scaler.
        batch: This process's part.
        labels: Of all images, for the supervised baseline.
        position: Decides every draw.
        num_parts: Backward passes that the queries are spread over, for less memory.

    Returns:
        The loss and the top-1 in percent, of this process's part.
    """
    # What draws inside the network, such as stochastic depth, is keyed as everything else.
    torch.manual_seed(draw_key(position.seed, position.step, distributed.rank(), 1))
    state.optimizer.zero_grad()
    with update.mixed_precision(position.recipe.precision, batch.views[0].device.type):
        if num_parts > 1:
            return _in_parts(state, batch, position, num_parts)
        logits, targets = methods.forward(state.model, batch, labels, position)
        loss, top1 = methods.loss_and_top1(state.model, logits, targets)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach(), top1


def _in_parts(
    state: State[Method], batch: Batch, position: Position, num_parts: int
) -> tuple[Tensor, Tensor]:
    """All keys first, then the queries part by part; the queue takes the keys at the end."""
    model, (im_q, im_k) = state.model, batch.views
    assert isinstance(model, MoCo), "only the queue's queries do not depend on each other"
    keys = model.encode_keys(im_k, position.permutation().to(im_k.device))
    parts = zip(im_q.chunk(num_parts), shuffle.local_share(keys).chunk(num_parts), strict=True)
    told: list[Tensor] = []
    for images, their_keys in parts:
        groups = model.virtual_ranks // num_parts
        # The run's statistics are those of the first group of all.
        with shuffle.still_statistics(model.encoder_q) if told else nullcontext():
            logits, targets = model.compare(images, their_keys, num_groups=groups)
        loss, top1 = methods.loss_and_top1(model, logits, targets)
        state.scaler.scale(loss / num_parts).backward()  # type: ignore[no-untyped-call]
        told.append(torch.stack([loss.detach(), top1]))
    model.enqueue(keys)
    loss, top1 = torch.stack(told).mean(0)
    return loss, top1


@dataclass(frozen=True)
class Agreement:
    """What all ranks know after a backward pass: means over ranks, and counts."""

    loss: float
    top1: float
    gradient_norm: float
    num_damaged: int
    num_stopped: int


def agree(
    state: State[Method], told: tuple[Tensor, Tensor], batch: Batch, *, is_stopped: bool
) -> Agreement:
    """Average the gradients, and tell each other everything else in one more collective."""
    counts = torch.tensor([int((batch.damage > 0).sum()), int(is_stopped)])
    said = torch.cat([torch.stack(told).double(), counts.to(told[0].device)])
    sums, norm = update.agree(state, said)
    loss, top1, num_damaged, num_stopped = sums.tolist()
    num_ranks = distributed.world_size()
    return Agreement(loss / num_ranks, top1 / num_ranks, norm, int(num_damaged), int(num_stopped))


def require_finite(agreement: Agreement, batch: Batch, position: Position, output: Path) -> None:
    """Stop all ranks before an update with numbers that are not finite.

    Raises:
        DivergedError: With where the batch's images are listed.
    """
    if math.isfinite(agreement.loss) and math.isfinite(agreement.gradient_norm):
        return
    samples = torch.cat(distributed.gather_uneven(batch.samples)).tolist()
    path = output / "diverged.json"
    if distributed.rank() == 0:
        content = {"step": position.step, "lr": position.lr, "images": samples}
        write_text(path, json.dumps(content))
    raise DivergedError(
        f"The loss is {agreement.loss} and the gradient's norm {agreement.gradient_norm} at step "
        f"{position.step} (lr {position.lr:.3g}); no update was made with them. The images of the "
        f"batch are listed in {path}; the last checkpoint is good. Try a smaller lr: --set lr=..."
    )
