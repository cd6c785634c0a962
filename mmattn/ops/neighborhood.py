"""Neighbourhood attention with relative position bias (Hassani et al., CVPR 2023, eqs. 2 and 3), on any device.

Pixel i attends to the k x k pixels around it; at a border the window stops moving, so every pixel has k x k keys.
"""
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.dispatch import Budget, Implementation, Implementations, are_symbols, for_comparison, is_traced
from mmattn.ops.fused import kernel_refusals, kernel_reservations
from mmattn.ops.partition import ceil_div, crop

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


def _triton(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float) -> Tensor:
    """Logits and bias exist a block at a time, inside a kernel."""
    from mmattn.ops.kernels import neighborhood as kernels
    return kernels.neighborhood_attention(q, k, v, table, kernel_size)


def _triton_refusals(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float) -> list[str]:
    refusals = ['only tiles drops attention weights'] if dropout else kernel_refusals((q, k, v), (q.shape[-1],))
    if refusals:
        return refusals
    from mmattn.ops.kernels import neighborhood as kernels
    if kernel_size > kernels.LARGEST:
        return [f'the Triton kernel takes windows of up to {kernels.LARGEST} pixels a side; got {kernel_size}']
    reason = kernels.trial(q.device, q.dtype, q.shape[-1], kernel_size)
    return [reason] if reason else []


def _tiles(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float, *, logits: int) -> Tensor:
    """A tile of neighbouring queries needs few keys more than one query does, so each tile attends to the strip of
    keys that covers its windows, and a bias of -inf leaves out what is outside the window of a query."""
    if are_symbols(q.shape):
        return _strips(q, k, v, table, kernel_size, dropout)
    if dropout or is_traced():      # a backward pass of its own would draw other weights, or be lost
        return _forward(q, k, v, table, kernel_size, logits, dropout)
    return _NeighborhoodAttention.apply(q, k, v, table, kernel_size, logits)


def _reference(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float) -> Tensor:
    return reference.neighborhood_attention(q, k, v, table, kernel_size)


def _reference_refusals(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float) -> list[str]:
    return ['only tiles drops attention weights'] if dropout else []


def _strips(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, dropout: float) -> Tensor:
    """All tiles at once and alike, from the first pixel on, with longer strips: what it does depends on no size."""
    height, width = q.shape[2:4]
    y, x = (_Strips.of(side, kernel_size, q.device) for side in (height, width))
    bias = table[:, y.displacement][:, :, :, x.displacement]                                # (h, ty, sy, tx, sx)
    bias = rearrange(bias, 'h ty sy tx sx -> h (ty tx) (sy sx)')
    outside = y.outside[:, None, :, None, :, None] | x.outside[:, None, :, None]            # (ny, nx, ty, tx, sy, sx)
    bias = bias.masked_fill(outside.flatten(4).flatten(2, 3).flatten(0, 1)[:, None], -math.inf)
    bias = bias.expand(len(q), *bias.shape).flatten(0, 1)                                   # (B ny nx, h, ty tx, sy sx)
    q = F.pad(q, (0, 0, 0, x.tiles * x.tile - width, 0, y.tiles * y.tile - height))
    q = rearrange(q, 'b h (ny ty) (nx tx) d -> (b ny nx) h (ty tx) d', ty=y.tile, tx=x.tile)
    k, v = (rearrange(t[:, :, y.keys][:, :, :, :, x.keys], 'b h ny sy nx sx d -> (b ny nx) h (sy sx) d')
            for t in (k, v))
    out = rearrange(attention(q, k, v, bias, dropout), '(b ny nx) h (ty tx) d -> (b h) (ny ty) (nx tx) d', ny=y.tiles,
                    nx=x.tiles, ty=y.tile)
    return crop(out, height, width).unflatten(0, (-1, len(table)))


IMPLEMENTATIONS = Implementations('neighborhood_attention', 'MMATTN_NEIGHBORHOOD_ATTENTION', {
    'triton': Implementation(_triton, _triton_refusals, kernel_reservations),
    # of all heads at once
    'tiles': Implementation(_tiles, budgets={'logits': Budget(cpu=2 ** 21, share=1 / 64)}),
    'reference': Implementation(_reference, _reference_refusals, for_comparison),
})


def _forward(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int, logits: int,
             dropout: float = 0.0) -> Tensor:
    tiling = _Tiling.of(q, kernel_size)

    def attend(y: _Run, x: _Run) -> Tensor:
        at_q, at_k = tiling.places(y, x)
        return _attend(q[at_q], k[at_k], v[at_k], table, y, x, tiling, dropout)

    return torch.cat([torch.cat([attend(y, x) for x in columns], 3) for y, columns in tiling.blocks(q, logits)], 2)


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
        kernel_size, logits = ctx.options
        tiling = _Tiling.of(q, kernel_size)
        grads = grad_q, grad_k, grad_v, grad_table = [torch.zeros_like(t) for t in (q, k, v, table)]
        for y, columns in tiling.blocks(q, logits):
            for x in columns:
                at_q, at_k = tiling.places(y, x)
                with torch.enable_grad():
                    inputs = [t.detach().requires_grad_() for t in (q[at_q], k[at_k], v[at_k], table)]
                    out = _attend(inputs[0], inputs[1], inputs[2], inputs[3], y, x, tiling)
                parts = torch.autograd.grad(out, inputs, grad_out[at_q])
                for grad, part in zip((grad_q[at_q], grad_k[at_k], grad_v[at_k], grad_table), parts):
                    grad += part
        return *grads, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor, y: '_Run', x: '_Run', tiling: '_Tiling',
            dropout: float = 0.0) -> Tensor:
    """The tiles of one run of rows and one of columns: their queries (B, h, H, W, d), keys and values, as far as there
    are any -> (B, h, H, W, d)."""
    of_y, of_x = tiling
    height, width = q.shape[2:4]
    (_, (top, _)), (_, (left, _)) = of_y.part(y), of_x.part(x)
    q, k, v = tiling.complete(q, y, x), *(tiling.complete(t, y, x, of_y.reach, of_x.reach) for t in (k, v))
    margin_y, margin_x = of_y.table_margin, of_x.table_margin
    # Keys and queries counted up, displacements lie on diagonals: a query reads a window of the table.
    bias = F.pad(table, (margin_x, margin_x, margin_y, margin_y)).unfold(1, of_y.strip, 1).unfold(2, of_x.strip, 1)
    bias = bias.flip(1, 2).flatten(3).flatten(1, 2)                                         # (h, ty tx, sy sx)
    outside = y.outside[:, None, :, None, :, None] | x.outside[:, None, :, None]            # (ny, nx, ty, tx, sy, sx)
    outside = outside.flatten(4).flatten(2, 3).flatten(0, 1)                                # ny and nx are 1 if alike
    bias = bias.masked_fill(outside[:, None], -math.inf)                                    # (ny nx, h, ty tx, sy sx)
    if len(bias) > 1:
        bias = bias.expand(len(q), *bias.shape).flatten(0, 1)
    q = rearrange(q, 'b h (ny ty) (nx tx) d -> (b ny nx) h (ty tx) d', ty=of_y.tile, tx=of_x.tile)
    k, v = (rearrange(t.unfold(2, of_y.strip, of_y.tile).unfold(3, of_x.strip, of_x.tile),
                      'b h ny nx d sy sx -> (b ny nx) h (sy sx) d') for t in (k, v))
    out = attention(q, k, v, bias, dropout)
    out = rearrange(out, '(b ny nx) h (ty tx) d -> b h (ny ty) (nx tx) d', ny=y.tiles, nx=x.tiles, ty=of_y.tile)
    return out[:, :, top:top + height, left:left + width]


class _Strips(NamedTuple):
    """Tiles along one side, from the first pixel on. A window stops at the end of the map, which may be one pixel
    behind the start of the last tile; so a strip reaches twice as far before its tile as behind it.

    Args:
        tile, tiles: queries of a tile, and how many tiles.
        keys: (tiles, strip) the keys of each tile, any pixel where there is none.
        outside: (tiles, tile, strip) whether a key of the strip is outside the window of a query.
        displacement: (tile, strip) entry of the table of a query and a key.
    """
    tile: int
    tiles: int
    keys: Tensor
    outside: Tensor
    displacement: Tensor

    @classmethod
    def of(cls, side: int, kernel_size: int, device: torch.device) -> '_Strips':
        half = kernel_size // 2
        tile = max(TILE, half + 1)
        tiles = ceil_div(side, tile)
        query = torch.arange(tile, device=device)[:, None]
        key = torch.arange(-2 * half, tile + half, device=device)
        displacement = (key - query + kernel_size - 1).clamp(0, 2 * kernel_size - 2)
        start = torch.arange(tiles, device=device) * tile
        window = min(kernel_size, side)
        first = (start[:, None, None] + query - half).clamp(0, side - window)
        keys = start[:, None] + key
        outside = (keys[:, None] < first) | (keys[:, None] >= first + window)
        return cls(tile, tiles, keys.clamp(0, side - 1), outside, displacement)


class _Run(NamedTuple):
    """Neighbouring tiles along one side.

    Args:
        first, tiles: the first tile, and how many.
        outside: (tiles, tile, strip) whether a key of the strip is outside the window of a query; (1, tile, strip)
            where the windows of all tiles lie alike.
    """
    first: int
    tiles: int
    outside: Tensor


class _Axis(NamedTuple):
    """Tiles along one side, all alike. What completes the last tile is shared by both ends, so that the windows of a
    tile lie in the strip of keys that reaches half a window beyond it: all but a map of a single tile has that many."""
    side: int
    kernel_size: int

    @property
    def tile(self) -> int:
        """Queries of a tile: about `TILE`, and more than half a window beside what is missing at an end. A small map is
        a single tile, as a strip would be no smaller."""
        half = self.kernel_size // 2
        if self.side <= min(TILE + 2 * half, 2 * TILE):
            return self.side
        return next(tile for tile in range(TILE, self.side + 1) if half + (-self.side % tile + 1) // 2 < tile)

    @property
    def tiles(self) -> int:
        return ceil_div(self.side, self.tile)

    @property
    def reach(self) -> int:
        """Keys of a strip on each side of its tile."""
        return self.kernel_size // 2 if self.tiles > 1 else 0

    @property
    def strip(self) -> int:
        """Keys that a tile sees."""
        return self.tile + 2 * self.reach

    @property
    def start(self) -> int:
        """First query of the first tile; not in the map, if less than 0."""
        return -((self.tiles * self.tile - self.side) // 2)

    @property
    def table_margin(self) -> int:
        """Entries to add at both ends of the table, so that it has one for every query and key of a tile."""
        return self.tile + self.reach - self.kernel_size

    def part(self, run: _Run, reach: int = 0) -> tuple[slice, tuple[int, int]]:
        """Which pixels of the map lie in some tiles and so many pixels beyond them, and how many more would at both
        ends."""
        first = self.start + run.first * self.tile - reach
        last = first + run.tiles * self.tile + 2 * reach
        there = slice(max(first, 0), min(last, self.side))
        return there, (there.start - first, last - there.stop)

    def outside(self, device: torch.device) -> Tensor:
        """Whether a key of the strip is outside the window of a query: (tiles, tile, strip)."""
        window, half = min(self.kernel_size, self.side), self.kernel_size // 2
        stop = self.start + self.tiles * self.tile
        first = torch.arange(self.start - half, stop - half, device=device).clamp(0, self.side - window)
        first = first.view(self.tiles, self.tile, 1)
        key = torch.arange(self.start - self.reach, stop + self.reach, device=device)
        key = key.unfold(0, self.strip, self.tile)[:, None]
        return (key < first) | (key >= first + window)

    def runs(self, device: torch.device) -> list[_Run]:
        """On the CPU the first tile, those between and the last, each kind with windows that lie alike: their bias
        stays in the cache. Elsewhere all at once: few calls."""
        outside = self.outside(device)
        if device.type != 'cpu':
            return [_Run(0, self.tiles, outside)]
        bounds = sorted({0, 1, max(self.tiles - 1, 1), self.tiles})
        return [_Run(first, last - first, outside[first:first + 1]) for first, last in pairwise(bounds)]


class _Tiling(NamedTuple):
    """How a map is cut into tiles, along y and x."""
    y: _Axis
    x: _Axis

    @classmethod
    def of(cls, q: Tensor, kernel_size: int) -> '_Tiling':
        return cls(*(_Axis(int(side), kernel_size) for side in q.shape[2:4]))     # tensors while tracing

    def blocks(self, q: Tensor, logits: int) -> Iterator[tuple[_Run, list[_Run]]]:
        """Runs of rows, short enough for few logits at once, each with the runs of columns."""
        columns = self.x.runs(q.device)
        of_row = q.shape[0] * q.shape[1] * self.y.tile * self.y.strip * self.x.tile * self.x.strip
        rows = max(1, logits // max(1, of_row * max(x.tiles for x in columns)))
        for first, tiles, outside in self.y.runs(q.device):
            for start in range(0, tiles, rows):
                part = outside if len(outside) == 1 else outside[start:start + rows]
                yield _Run(first + start, min(rows, tiles - start), part), columns

    def places(self, y: _Run, x: _Run) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Where the queries of some tiles lie in the map, and where their keys do."""
        queries = self.y.part(y)[0], self.x.part(x)[0]
        keys = self.y.part(y, self.y.reach)[0], self.x.part(x, self.x.reach)[0]
        return (..., *queries, slice(None)), (..., *keys, slice(None))

    def complete(self, t: Tensor, y: _Run, x: _Run, reach_y: int = 0, reach_x: int = 0) -> Tensor:
        """What there is of some tiles, (B, h, H, W, d), with zeros for the rest."""
        padding = 0, 0, *self.x.part(x, reach_x)[1], *self.y.part(y, reach_y)[1]
        return F.pad(t, padding) if any(padding) else t


def window_start(i: int, side: int, kernel_size: int) -> int:
    """First key of query i along a side: the window stops moving at the borders, and is no larger than the map."""
    return min(max(i - kernel_size // 2, 0), side - min(kernel_size, side))
