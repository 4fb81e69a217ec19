"""The nearest of a bank's features by cosine, exactly: the same ones however the work is cut up.

A sum of floating-point products depends on its order, and so, by the last digit, on the size of a
chunk, the number of ranks and the device. Here every coordinate of a unit vector is rounded to a
multiple of 2^-26 first. Products are then multiples of 2^-52, their partial sums less than 2, and
float64 holds each of them exactly, in any order. The rounding moves a cosine by about 1e-8, a
fraction of the step of float32 below 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moco_eval import distributed

GRID = 2.0**26

# How many queries are held against how many images at once: 128 MiB of similarities.
NUM_QUERIES = 1024
NUM_IMAGES = 16384


@dataclass(frozen=True)
class Neighbours:
    """The nearest images of each query, the nearest first; of equals, the earlier in the bank.

    Attributes:
        similarity: Cosines ``(M, k)``, float64.
        index: Which images of the bank ``(M, k)``.
    """

    similarity: Tensor
    index: Tensor


def search(
    bank: Tensor,
    queries: Tensor,
    k: int,
    *,
    num_queries: int = NUM_QUERIES,
    num_images: int = NUM_IMAGES,
) -> Neighbours:
    """Find the ``k`` nearest by cosine.

    Args:
        bank: ``(N, D)`` features of any length. Read once, in parts, so that it may lie in a file
            and be larger than the memory.
        queries: ``(M, D)``, on the device that computes.
        k: At most N.
        num_queries: How many of them are held at once against
        num_images: so many images of the bank; neither changes the result.
    """
    assert 0 < k <= len(bank), f"{k} neighbours of {len(bank)} images"
    units = _on_grid(queries)
    similarity = units.new_empty((len(queries), 0))
    index = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for first in range(0, len(bank), num_images):
        images = _on_grid(bank[first : first + num_images].to(queries.device)).T
        parts = []
        for start in range(0, max(len(queries), 1), num_queries):
            rows = slice(start, start + num_queries)
            values, places = _greatest(units[rows] @ images, k)
            # What was found before stands earlier in the bank, so that of equals it stays first.
            both = torch.cat([similarity[rows], values], dim=1)
            kept, order = both.sort(dim=1, descending=True, stable=True)
            indices = torch.cat([index[rows], places + first], dim=1).gather(1, order)
            parts.append((kept[:, :k], indices[:, :k]))
        similarity, index = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Neighbours(similarity, index)


def search_on_all_ranks(bank: Tensor, queries: Tensor, k: int) -> Neighbours:
    """As ``search``, the queries shared out among the ranks; every rank returns all of them."""
    own = search(bank, queries[distributed.rank() :: distributed.world_size()], k)
    num_queries = len(queries)
    return Neighbours(
        distributed.gather_dealt(own.similarity, num_queries),
        distributed.gather_dealt(own.index, num_queries),
    )


def _on_grid(features: Tensor) -> Tensor:
    """Unit vectors in float64, each coordinate a multiple of 2^-26."""
    return F.normalize(features.double(), dim=1).mul_(GRID).round_().div_(GRID)


def _greatest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The greatest ``k`` of each row (or all, where there are fewer) and their columns.

    The greatest first; of equals, those of smaller columns: ``topk`` promises neither.
    """
    k = min(k, values.shape[1])
    found, columns = values.topk(min(k + 1, values.shape[1]))
    # One more than asked shows where equals stand on both sides of the cut.
    is_cut = (found[:, k:] == found[:, k - 1 : k]).any(1)
    columns = columns[:, :k].sort(dim=1).values
    found, order = values.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    if is_cut.any():
        whole = values[is_cut].sort(dim=1, descending=True, stable=True)
        found[is_cut], columns[is_cut] = whole.values[:, :k], whole.indices[:, :k]
    return found, columns
