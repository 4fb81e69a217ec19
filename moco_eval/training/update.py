"""What every update shares: the precision, the agreement of all ranks, the optimizer's step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moco_eval import distributed
from moco_eval.training.checkpoint import State

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def mixed_precision(precision: str, device: str) -> torch.autocast:
    """Within this context, networks compute in ``precision``, a name in ``PRECISIONS``."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def agree(state: State[Any], told: Tensor) -> tuple[Tensor, float]:
    """Average the gradients, and tell each other everything else in one more collective.

    Args:
        state: After the backward pass.
        told: What this rank has to say ``(N,)``.

    Returns:
        The sum of ``told`` over all ranks, in double precision, and the gradients' norm: 0 where a
        scaler looks at them itself.
    """
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    distributed.average_gradients(parameters)
    sums = distributed.total(told.double())
    # fp16's gradients may overflow: their scaler then skips the step and scales less.
    is_scaled = state.scaler.is_enabled()
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = 0.0 if is_scaled else torch.nn.utils.get_total_norm(gradients).item()
    return sums, norm


def step(state: State[Any], lr: float) -> None:
    """Take the step at the learning rate ``lr``, times a group's ``lr_scale`` where it has one."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    state.scaler.step(state.optimizer)
    state.scaler.update()
