"""Neighbourhood attention with relative position bias (Hassani et al., CVPR 2023, eqs. 2 and 3), on any device.

Pixel i attends to the k x k pixels around it; at a border the window stops moving, so every pixel has k x k keys.
"""
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.dispatch import Budget, Implementation, Implementations, for_comparison, is_traced

TILE = 8                    # queries along each side of a tile


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float = 0.0,
                           backend: str | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v over the window of each query.

    Args:
        q, k, v: (B, h, H, W, d).
        table: (h, 2 kernel_size - 1, 2 kernel_size - 1), added to the logits by displacement key - query, (y, x) in
            pixels; the middle is displacement zero.
        kernel_size: side of the window, odd. Where the map is smaller, the window is as large as the map.
        dropout: probability of dropping an attention weight.
        backend: one of `IMPLEMENTATIONS`; None for the one that the environment variable
            MMATTN_NEIGHBORHOOD_ATTENTION names, or else for the first that can run.

    Returns:
        (B, h, H, W, d).

    Raises:
        ArgumentError: the backend asked for is unknown or cannot run.
    """
    return IMPLEMENTATIONS.run(backend, q, k, v, table, kernel_size, dropout)


def _tiles(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float, *, logits: int) -> Tensor:
    """A tile of neighbouring queries needs few keys more than one query does, so each tile attends to the strip of
    keys that covers its windows, and a bias of -inf leaves out what is outside the window of a query."""
    if dropout or is_traced():      # a backward pass of its own would draw other weights, or be lost
        return _forward(q, k, v, table, kernel_size, logits, dropout)
    return _NeighborhoodAttention.apply(q, k, v, table, kernel_size, logits)


def _reference(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float) -> Tensor:
    return reference.neighborhood_attention(q, k, v, table, kernel_size)


def _reference_refusals(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float) -> list[str]:
    return ['only tiles drops attention weights'] if dropout else []


IMPLEMENTATIONS = Implementations('neighborhood_attention', 'MMATTN_NEIGHBORHOOD_ATTENTION', {
    # of all heads at once
    'tiles': Implementation(_tiles, budgets={'logits': Budget(cpu=2 ** 21, other=2 ** 21)}),
    'reference': Implementation(_reference, _reference_refusals, for_comparison),
})


def _forward(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, logits: int,
             dropout: float = 0.0) -> Tensor:
    return torch.cat([
        torch.cat([_attend(q[..., y.queries, x.queries, :], k[..., y.keys, x.keys, :], v[..., y.keys, x.keys, :],
                           table, y, x, dropout) for x in columns], 3)
        for y, columns in _blocks(q, kernel_size, logits)], 2)


class _NeighborhoodAttention(torch.autograd.Function):
    """Keeps the inputs only: each block of tiles is computed again in the backward pass, where its gradients are
    added in place."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, logits: int) -> Tensor:
        ctx.save_for_backward(q, k, v, table)
        ctx.options = kernel_size, logits
        return _forward(q, k, v, table, kernel_size, logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table = ctx.saved_tensors
        grads = grad_q, grad_k, grad_v, grad_table = [torch.zeros_like(t) for t in (q, k, v, table)]
        for y, columns in _blocks(q, *ctx.options):
            for x in columns:
                at_q, at_k = (..., y.queries, x.queries, slice(None)), (..., y.keys, x.keys, slice(None))
                with torch.enable_grad():
                    inputs = [t.detach().requires_grad_() for t in (q[at_q], k[at_k], v[at_k], table)]
                    out = _attend(inputs[0], inputs[1], inputs[2], inputs[3], y, x)
                parts = torch.autograd.grad(out, inputs, grad_out[at_q])
                for grad, part in zip((grad_q[at_q], grad_k[at_k], grad_v[at_k], grad_table), parts):
                    grad += part
        return *grads, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor, y: '_Run', x: '_Run', dropout: float = 0.0) -> Tensor:
    """The tiles of one run of rows and one of columns, which share their bias: queries (B, h, H, W, d) of the runs,
    their keys and values -> (B, h, H, W, d)."""
    height, width = q.shape[2:4]
    q = F.pad(q, (0, 0, 0, x.tiles * x.tile - width, 0, y.tiles * y.tile - height))
    bias = table[:, y.offsets[:, None, :, None], x.offsets[:, None]]                        # (h, ty, tx, sy, sx)
    outside = y.outside[:, None, :, None] | x.outside[:, None]
    bias = bias.masked_fill(outside, -math.inf).flatten(3).flatten(1, 2)                    # (h, ty tx, sy sx)
    q = rearrange(q, 'b h (ny ty) (nx tx) d -> (b ny nx) h (ty tx) d', ty=y.tile, tx=x.tile)
    k, v = (rearrange(t.unfold(2, y.strip, y.tile).unfold(3, x.strip, x.tile),
                      'b h ny nx d sy sx -> (b ny nx) h (sy sx) d') for t in (k, v))
    out = attention(q, k, v, bias[None], dropout)
    out = rearrange(out, '(b ny nx) h (ty tx) d -> b h (ny ty) (nx tx) d', ny=y.tiles, nx=x.tiles, ty=y.tile)
    return out[:, :, :height, :width]


def _blocks(q: Tensor, kernel_size: int, budget: int) -> Iterator[tuple['_Run', list['_Run']]]:
    """Runs of rows, short enough for few logits at once, each with the runs of columns."""
    columns = _runs(q.shape[3], kernel_size, q.device)
    for run in _runs(q.shape[2], kernel_size, q.device):
        logits = q.shape[0] * q.shape[1] * max(x.tiles for x in columns) * (run.tile * run.strip) ** 2
        step = max(1, budget // max(1, logits))
        for first in range(0, run.tiles, step):
            yield run.part(first, min(step, run.tiles - first)), columns


@dataclass
class _Run:
    """Tiles along one axis whose windows lie alike: the first, those between, the last."""
    tiles: int
    tile: int                   # queries of a tile
    strip: int                  # keys that a tile sees
    queries: slice
    keys: slice
    offsets: Tensor       # (tile, strip) index into the bias table
    outside: Tensor       # (tile, strip) whether the key is outside the window of the query

    def part(self, first: int, count: int) -> '_Run':
        """`count` tiles of the run from tile number `first`."""
        start, keys = self.queries.start + first * self.tile, self.keys.start + first * self.tile
        return replace(self, tiles=count, queries=slice(start, start + count * self.tile),
                       keys=slice(keys, keys + (count - 1) * self.tile + self.strip))


def _runs(side: int, kernel_size: int, device: torch.device) -> list[_Run]:
    tile, window = min(TILE, side), min(kernel_size, side)
    strip = min(tile + window - 1, side)

    def placed(first: int) -> tuple[int, tuple[int, ...]]:
        """Where the strip of the tile at `first` and the windows of its queries start, relative to `first`."""
        queries = range(first, first + tile)
        starts = [window_start(i, side, kernel_size) for i in queries]
        return min(starts[0], side - strip) - first, tuple(s - first for s in starts)

    runs = []
    for (shift, starts), group in _groups(range(0, side, tile), placed):
        first, last = group[0], group[-1]
        key = torch.arange(shift, shift + strip, device=device)
        start = torch.tensor(starts, device=device)[:, None]
        offsets = key - torch.arange(tile, device=device)[:, None] + kernel_size - 1
        runs.append(_Run(len(group), tile, strip,
                         slice(first, last + tile), slice(first + shift, last + shift + strip),
                         offsets.clamp(0, 2 * kernel_size - 2), (key < start) | (key >= start + window)))
    return runs


def window_start(i: int, side: int, kernel_size: int) -> int:
    """First key of query i along a side: the window stops moving at the borders, and is no larger than the map."""
    return min(max(i - kernel_size // 2, 0), side - min(kernel_size, side))


def _groups(items: Sequence[int], key: Callable[[int], Any]) -> list[tuple[Any, list[int]]]:
    """Neighbouring items of equal key, as (key, items); `itertools.groupby` in a form that compilers can trace."""
    groups: list[tuple[Any, list[int]]] = []
    for item in items:
        if groups and groups[-1][0] == key(item):
            groups[-1][1].append(item)
        else:
            groups.append((key(item), [item]))
    return groups
