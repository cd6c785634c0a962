"""Neighbourhood attention with relative position bias (Hassani et al., CVPR 2023, eqs. 2 and 3), on any device.

Pixel i attends to the k x k pixels around it; at a border the window stops moving, so every pixel has k x k keys. A
tile of neighbouring queries needs few keys more than one query does, so each tile attends to the strip of keys that
covers its windows, and a bias of -inf leaves out what is outside the window of a query.
"""
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch.autograd.function import once_differentiable

from mmattn.ops.attention import attention

TILE = 8                    # queries along each side of a tile
BLOCK_LOGITS = 2 ** 21      # of all heads at once


def neighborhood_attention(q, k, v, table, kernel_size, dropout=0.0):
    """softmax(q k^T / sqrt(d) + bias) v over the window of each query.

    Args:
        q, k, v (Tensor): (B, h, H, W, d).
        table (Tensor): (h, 2 kernel_size - 1, 2 kernel_size - 1) bias by key - query, (y, x).
        kernel_size (int): side of the window, odd. Where the map is smaller, the window is as large as the map.
        dropout (float): probability of dropping an attention weight.

    Returns:
        Tensor: (B, h, H, W, d).
    """
    if dropout or torch.compiler.is_compiling():        # which cannot trace a backward pass of its own
        return _forward(q, k, v, table, kernel_size, dropout)
    return _NeighborhoodAttention.apply(q, k, v, table, kernel_size)


def _forward(q, k, v, table, kernel_size, dropout=0.0):
    return torch.cat([
        torch.cat([_attend(q[..., y.queries, x.queries, :], k[..., y.keys, x.keys, :], v[..., y.keys, x.keys, :],
                           table, y, x, dropout) for x in columns], 3)
        for y, columns in _blocks(q, kernel_size)], 2)


class _NeighborhoodAttention(torch.autograd.Function):
    """Keeps the inputs only: each block of tiles is computed again in the backward pass, where its gradients are
    added in place."""

    @staticmethod
    def forward(ctx, q, k, v, table, kernel_size):
        ctx.save_for_backward(q, k, v, table)
        ctx.kernel_size = kernel_size
        return _forward(q, k, v, table, kernel_size)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, table = ctx.saved_tensors
        grads = grad_q, grad_k, grad_v, grad_table = [torch.zeros_like(t) for t in (q, k, v, table)]
        for y, columns in _blocks(q, ctx.kernel_size):
            for x in columns:
                at_q, at_k = (..., y.queries, x.queries, slice(None)), (..., y.keys, x.keys, slice(None))
                with torch.enable_grad():
                    inputs = [t.detach().requires_grad_() for t in (q[at_q], k[at_k], v[at_k], table)]
                    out = _attend(*inputs, y, x)
                parts = torch.autograd.grad(out, inputs, grad_out[at_q])
                for grad, part in zip((grad_q[at_q], grad_k[at_k], grad_v[at_k], grad_table), parts):
                    grad += part
        return *grads, None


def _attend(q, k, v, table, y, x, dropout=0.0):
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


def _blocks(q, kernel_size):
    """Runs of rows, short enough for few logits at once, each with the runs of columns."""
    columns = _runs(q.shape[3], kernel_size, q.device)
    for run in _runs(q.shape[2], kernel_size, q.device):
        logits = q.shape[0] * q.shape[1] * max(x.tiles for x in columns) * (run.tile * run.strip) ** 2
        step = max(1, BLOCK_LOGITS // max(1, logits))
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
    offsets: torch.Tensor       # (tile, strip) index into the bias table
    outside: torch.Tensor       # (tile, strip) whether the key is outside the window of the query

    def part(self, first, count):
        """`count` tiles of the run from tile number `first`."""
        start, keys = self.queries.start + first * self.tile, self.keys.start + first * self.tile
        return replace(self, tiles=count, queries=slice(start, start + count * self.tile),
                       keys=slice(keys, keys + (count - 1) * self.tile + self.strip))


def _runs(side, kernel_size, device):
    tile, window = min(TILE, side), min(kernel_size, side)
    strip = min(tile + window - 1, side)

    def placed(first):
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


def window_start(i, side, kernel_size):
    """First key of query i along a side: the window stops moving at the borders, and is no larger than the map."""
    return min(max(i - kernel_size // 2, 0), side - min(kernel_size, side))


def _groups(items, key):
    """Neighbouring items of equal key, as (key, items); `itertools.groupby` in a form that compilers can trace."""
    groups = []
    for item in items:
        if groups and groups[-1][0] == key(item):
            groups[-1][1].append(item)
        else:
            groups.append((key(item), [item]))
    return groups
