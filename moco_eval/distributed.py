"""Ranks: the processes of one run, and what they tell each other.

Every function here also works in a single process, where it costs nothing. Processes are found as
torchrun names them: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moco_eval.errors import RankError, UsageError

# A collective that fails in the middle of a run waits no longer than this for a silent rank.
TIMEOUT_S = 100.0
START_TIMEOUT_S = 300.0

T = TypeVar("T")

# torch renamed it in 2.14 and warns of the older name.
ALL_GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"


def is_launched() -> bool:
    """Whether a launcher started this process as one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def ranks(device: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Join the other ranks for the length of the block: NCCL on GPUs, gloo on CPUs.

    Args:
        device: ``cpu`` or ``cuda``; on GPUs this rank takes the one of its LOCAL_RANK.
        timeout_s: How long a collective waits for a silent rank.

    Raises:
        UsageError: If there are more ranks here than GPUs.
        RankError: If the others cannot be reached.
    """
    if not is_launched():
        yield
        return
    own_gpu = None
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"Rank {local} of this machine has no GPU: {torch.cuda.device_count()} are here. "
                "Start fewer processes, or take: --device cpu"
            )
        own_gpu = torch.device("cuda", local)
        torch.cuda.set_device(own_gpu)
    start = timedelta(seconds=max(timeout_s, START_TIMEOUT_S))
    with _broken_ranks_named():
        backend = "nccl" if own_gpu else "gloo"
        dist.init_process_group(backend, timeout=start, device_id=own_gpu)
        # The first collective may wait for a rank that is still importing; later ones may not.
        dist.barrier()
    _set_timeout(timeout_s)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number among all of the run, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """Where a tensor must lie for the other ranks to get it: NCCL takes none from the CPU."""
    is_nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if is_nccl else torch.device("cpu")


def gather(tensor: Tensor) -> Tensor:
    """All ranks' ``tensor`` ``(N, ...)`` of equal shapes, one after the other: ``(P * N, ...)``."""
    if world_size() == 1:
        return tensor
    gathered = tensor.new_empty((world_size() * len(tensor), *tensor.shape[1:]))
    with _broken_ranks_named():
        getattr(dist, ALL_GATHER)(gathered, tensor.contiguous())
    return gathered


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """As ``gather``; the gradient of each part returns to the rank that it came from, summed."""
    if world_size() == 1:
        return tensor
    gathered: Tensor = _GatherWithGradient.apply(tensor)
    return gathered


def gather_uneven(tensor: Tensor) -> list[Tensor]:
    """Every rank's ``tensor`` ``(N_rank, ...)``, of lengths that may differ, in order of rank."""
    if world_size() == 1:
        return [tensor]
    lengths = gather(torch.tensor([len(tensor)], device=tensor.device)).tolist()
    padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = gather(padded).chunk(world_size())
    return [part[:length] for part, length in zip(parts, lengths, strict=True)]


def gather_dealt(own: Tensor, num_rows: int) -> Tensor:
    """All ``num_rows`` rows in their order, of which this rank has ``[rank()::world_size()]``."""
    whole = interleaved(gather_uneven(own))
    assert len(whole) == num_rows, f"the ranks have {len(whole)} rows of {num_rows}"
    return whole


def gather_dealt_objects(own: Sequence[T]) -> list[T]:
    """What every rank made of its ``[rank()::world_size()]``, in the order of the whole.

    They travel pickled, between ranks of one run alone.
    """
    if world_size() == 1:
        return list(own)
    parts: list[Sequence[T]] = [[] for _ in range(world_size())]
    with _broken_ranks_named():
        dist.all_gather_object(parts, own)
    whole: list[T | None] = [None] * sum(map(len, parts))
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return cast(list[T], whole)


def interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Undo ``[rank::world_size]``: row r of part p is row ``r * len(parts) + p`` of the whole."""
    whole = parts[0].new_empty((sum(len(part) for part in parts), *parts[0].shape[1:]))
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def exchange(tensor: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """Send each rank a part of ``tensor`` and return the parts that came, in order of rank.

    Args:
        tensor: ``(sum(sent), ...)``, the parts in order of the rank that they go to.
        sent: Length of the part for each rank.
        received: Length of the part from each rank.
    """
    if world_size() == 1:
        return tensor
    # Images often lie channels last; what travels is that layout's bytes, not a copy in another.
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    flat = (tensor.permute(0, 2, 3, 1) if last else tensor).contiguous()
    arrived = flat.new_empty((sum(received), *flat.shape[1:]))
    with _broken_ranks_named():
        dist.all_to_all_single(arrived, flat, list(received), list(sent))
    return arrived.permute(0, 3, 1, 2) if last else arrived


def total(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all ranks, in place."""
    if world_size() > 1:
        with _broken_ranks_named():
            dist.all_reduce(tensor)
    return tensor


def broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's ``tensor``, in place."""
    if world_size() > 1:
        with _broken_ranks_named():
            dist.broadcast(tensor, src=0)
    return tensor


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all ranks.

    One collective over one flat copy of all gradients: what it adds, and in which order, depends
    on the number of ranks alone, so that a resumed run adds in the same order.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    total(flat).div_(world_size())
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(
        gradients, [p.view(g.shape) for p, g in zip(parts, gradients, strict=True)]
    )


def synchronize_batch_norm(network: nn.Module, device: str) -> nn.Module:
    """Let every BatchNorm of ``network`` see the batches of all ranks; names stay as they are."""
    if world_size() == 1:
        return network
    if device == "cuda":
        synchronized: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronized
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            network.set_submodule(name, _CpuSyncBatchNorm.of(module))
    return network


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        return gather(tensor)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return total(gradient.contiguous()).chunk(world_size())[rank()]


class _TotalWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        return total(tensor.clone())

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return total(gradient.clone())


class _CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What torch's SyncBatchNorm computes, for the CPU, which that one refuses."""

    @classmethod
    def of(cls, module: nn.modules.batchnorm._BatchNorm) -> _CpuSyncBatchNorm:
        made = cls(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        made.load_state_dict(module.state_dict())
        for name, parameter in module.named_parameters():
            getattr(made, name).requires_grad_(parameter.requires_grad)
        return made.train(module.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        spread = (1, -1, *[1] * (input.dim() - 2))
        dims = [dim for dim in range(input.dim()) if dim != 1]
        # Ranks may see different numbers of values: of regions each has as many as it sampled.
        own = torch.tensor([input.numel() // input.shape[1]], device=input.device)
        count = int(total(own))
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        mean = _sum(values.sum(dims)) / count
        centred = values - mean.view(spread)
        variance = _sum(centred.square().sum(dims)) / count
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
        normalized = centred * torch.rsqrt(variance + self.eps).view(spread)
        if self.affine:
            normalized = normalized * self.weight.view(spread) + self.bias.view(spread)
        return normalized.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None, "a BatchNorm without statistics tracks none"
        assert self.running_var is not None, "a BatchNorm without statistics tracks none"
        assert self.num_batches_tracked is not None, "a BatchNorm that tracks counts its batches"
        assert self.momentum is not None, "a cumulative average has no use in training this long"
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


def _sum(tensor: Tensor) -> Tensor:
    summed: Tensor = _TotalWithGradient.apply(tensor)
    return summed


def _set_timeout(timeout_s: float) -> None:
    group = dist.distributed_c10d._get_default_group()
    for device in group._device_types:
        group._get_backend(device)._set_default_timeout(timedelta(seconds=timeout_s))


@contextmanager
def _broken_ranks_named() -> Iterator[None]:
    """Turn what a backend says of a rank that is gone or silent into an error of ours."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"Rank {rank()} waited for the others in vain: {str(error).splitlines()[0]}"
        ) from error
