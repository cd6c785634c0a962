"""Attention with a continuous relative position bias, exact, without ever holding the bias.

The bias of query (i, j) and key k is a table T read bilinearly at their displacement. Bilinear interpolation is a
product of two hat functions, and on a grid of queries one depends on the row i only and the other on the column j
only:

    bias[k, i, j] = sum_ab hat(a - y[k, i]) T[a, b] hat(b - x[k, j]),    hat(u) = max(0, 1 - |u|)

where y[k, i] and x[k, j] say where in the table row i and column j read for key k. So the bias of a few keys is two
small matrix products. They are written straight into the logits of these keys and all queries, laid out (key, query),
to which q k^T is added in place; the softmax over keys is accumulated as in FlashAttention (Dao et al., 2022), and the
backward pass recomputes the logits and is made of the same products. Keys sorted by height read a narrow band of rows
of the table, which halves the larger product on the CPU.
"""
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmattn.ops.precision import without_autocast

BLOCK_QUERIES = 4096                # whole rows of the map, about this many queries at once


def separable_attention(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, rows: Tensor, columns: Tensor,
                        *, block: int) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v for queries on a grid, the bias read in a table at query - point.

    Accumulates in float32 (float64 for float64 input), under autocast too. Differentiable once, in everything but
    `rows` and `columns`; deterministic on the CPU, and on CUDA where PyTorch is told to be.

    Args:
        q: (B, h, H, W, d) queries.
        k, v: (B, h, K, d) keys and values.
        points: (B, G, K, 2) where the keys lie, (y, x) normalised; h / G heads share the points of a group.
        table: (h, Ty, Tx), added to the logits by displacement query - point, (y, x) normalised: entries spread evenly
            from -2 to 2 on each axis, the middle is displacement zero; zero outside.
        rows: (H,) heights of the queries, normalised, ascending.
        columns: (W,) their horizontal positions.
        block: numbers in the largest tensors that exist at a time.

    Returns:
        (B, h, H, W, d), in the dtype of `q`.
    """
    heads, size = q.shape[1], q.shape[2:4]
    dtype = torch.promote_types(q.dtype, torch.float32)
    order = points[..., 0].argsort(dim=-1, stable=True)                                     # (B, G, K)
    points = _take(points, order)
    order = order.repeat_interleave(heads // order.shape[1], 1)                             # (B, h, K)
    q = q.flatten(2, 3).transpose(2, 3).contiguous()
    inputs = (q, _take(k, order), _take(v, order), points, table, rows, columns)
    out: Tensor = _SeparableAttention.apply(*(t.to(dtype) for t in inputs), block)
    return out.transpose(2, 3).unflatten(2, size).to(q.dtype)


def _take(t: Tensor, order: Tensor) -> Tensor:
    """t (B, n, K, d) in the order (B, n, K) of each list of K."""
    start = torch.arange(0, order.numel(), order.shape[-1], device=t.device).view(*order.shape[:2], 1)
    return t.flatten(0, 2).index_select(0, (order + start).flatten()).view_as(t)


class _SeparableAttention(torch.autograd.Function):
    """q (B, h, d, N), k and v (B, h, K, d), points (B, G, K, 2) with ascending heights -> (B, h, d, N)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, rows: Tensor, columns: Tensor,
                largest: int) -> Tensor:
        out = torch.zeros_like(q)
        top = q.new_full((*q.shape[:2], q.shape[3]), -math.inf)         # (B, h, N): largest logit so far
        total = torch.zeros_like(top)                                   # (B, h, N): sum of exp(logit - top)
        scale = q.shape[2] ** -0.5
        with without_autocast(q.device):
            for keys in _key_blocks(points, table, rows, columns, largest):
                for head in keys.heads:
                    here = (keys.batch, head, keys.span)
                    strips = keys.strips(table[head])
                    for block in keys.query_blocks:
                        at = (keys.batch, head, ..., block.queries)
                        logits = keys.bias(strips, block).addmm_(k[here], q[at], alpha=scale)
                        higher = torch.maximum(top[at], logits.amax(0))
                        weights = logits.sub_(higher).exp_()
                        shrink = (top[at] - higher).exp_()
                        top[at] = higher
                        total[at] = total[at] * shrink + weights.sum(0)
                        out[at].mul_(shrink).addmm_(v[here].t(), weights)
        out /= total[:, :, None]
        ctx.save_for_backward(q, k, v, points, table, rows, columns, out, top + total.log())
        ctx.largest = largest
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, points, table, rows, columns, out, log_total = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        mean = (grad_out * out).sum(2)                  # (B, h, N): d loss / d weight, averaged over the keys
        scale = q.shape[2] ** -0.5
        grad_q, grad_k, grad_v, grad_points, grad_table = (torch.zeros_like(t) for t in (q, k, v, points, table))
        with without_autocast(q.device):
            for keys in _key_blocks(points, table, rows, columns, ctx.largest, grad_points):
                for head in keys.heads:
                    here = (keys.batch, head, keys.span)
                    strips = keys.strips(table[head])
                    grad_strips = keys.scratch('grad strips', *strips.shape).zero_()
                    for block in keys.query_blocks:
                        at = (keys.batch, head, ..., block.queries)
                        logits = keys.bias(strips, block).addmm_(k[here], q[at], alpha=scale)
                        weights = logits.sub_(log_total[at]).exp_()
                        grad_v[here].addmm_(weights, grad_out[at].t())
                        grad_logits = torch.mm(v[here], grad_out[at], out=keys.buffer('grad logits', block))
                        grad_logits.sub_(mean[at]).mul_(weights)
                        grad_k[here].addmm_(grad_logits, q[at].t(), alpha=scale)
                        grad_q[at].addmm_(k[here].t(), grad_logits, alpha=scale)
                        keys.bias_backward(grad_logits, strips, block, grad_strips)
                    keys.strips_backward(grad_strips, table[head], grad_table[head])
        return grad_q, grad_k, grad_v, grad_points, grad_table, None, None, None


@dataclass
class _QueryBlock:
    rows: slice         # whole rows of the map
    queries: slice      # the same, counted in queries
    band: slice         # rows of the table that they read, counted from the first that the block of keys reads


def _key_blocks(points: Tensor, table: Tensor, rows: Tensor, columns: Tensor, largest: int,
                grad_points: Tensor | None = None) -> Iterator['_KeyBlock']:
    """Every block of keys of every group and image, with what its bias is made of."""
    batch, groups, count, _ = points.shape
    heads, entries, _ = table.shape
    height, width = max(1, BLOCK_QUERIES // len(columns)), len(columns)
    per_key = width * max(min(height, len(rows)), table.shape[2])       # logits, or hats over the columns
    size = min(count, max(1, largest // per_key))
    starts, tops = range(0, count, size), range(0, len(rows), height)
    if points.is_cpu:
        # Keys are sorted by height, so the first and the last of both blocks bound the rows of the table that are read.
        first, last = points[:, :, ::size, 0], points[:, :, [min(start + size, count) - 1 for start in starts], 0]
        low = _reads(rows[::height], last, entries).floor()
        high = _reads(rows[[min(top + height, len(rows)) - 1 for top in tops]], first, entries).floor() + 2
        bands = torch.stack([low.nan_to_num().clamp(0, entries - 1), high.nan_to_num().clamp(1, entries)], -1).tolist()
    else:       # to look at them, the program would have to wait for the device
        bands = [[[[(0, entries)] * len(tops)] * len(starts)] * groups] * batch
    scratch = _Scratch(points)
    for b in range(batch):
        for g in range(groups):
            for start, ends in zip(starts, bands[b][g]):
                span, bottom = slice(start, start + size), int(ends[0][0])
                query_blocks = [_QueryBlock(slice(top, top + height), slice(top * width, (top + height) * width),
                                            slice(int(low) - bottom, int(high) - bottom))
                                for top, (low, high) in zip(tops, ends)]
                yield _KeyBlock(b, range(g * heads // groups, (g + 1) * heads // groups), span, query_blocks,
                                points[b, g, span], rows, columns, table.shape, slice(bottom, int(ends[-1][1])),
                                scratch, None if grad_points is None else grad_points[b, g, span])


def _reads(positions: Tensor, points: Tensor, entries: int) -> Tensor:
    """Where in a table axis displacements are read: positions (n,), points (..., K) -> (..., K, n)."""
    return (positions - points[..., None]) * ((entries - 1) / 4) + (entries - 1) / 2


class _Scratch:
    """Memory that blocks use one after the other: fresh pages would cost more than what is written on them."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = self.like.new_empty(size)
        return self.buffers[name][:size].view(shape)


class _KeyBlock:
    """n keys of one group of an image, and the products that make their bias for the queries of H rows, W columns."""

    def __init__(self, batch: int, heads: range, span: slice, query_blocks: list[_QueryBlock], points: Tensor,
                 rows: Tensor, columns: Tensor, table_shape: torch.Size, band: slice, scratch: _Scratch,
                 grad_points: Tensor | None) -> None:
        self.batch, self.heads, self.span, self.query_blocks = batch, heads, span, query_blocks
        self.band, self.scratch, self.grad_points = band, scratch, grad_points
        self.count, self.width = len(points), len(columns)
        self.per_cell = [(n - 1) / 4 for n in table_shape[1:]]
        entries = torch.arange(-1, max(table_shape[1:]), dtype=points.dtype, device=points.device)
        a, b = entries[1:][band], entries[:table_shape[2] + 1, None]
        y = _reads(rows, points[:, 0], table_shape[1])[:, :, None]
        x = _reads(columns, points[:, 1], table_shape[2]).flatten()
        self.hat_rows = _hat(a, y, scratch('hat rows', *y.shape[:2], len(a)))               # (n, H, band)
        self.hat_columns = _hat(b[1:], x, scratch('hat columns', len(b) - 1, len(x)))       # (Tx, n W)
        if self.grad_points is not None:
            # d hat / d read is -1 at the entry below what is read and 1 at the one above. On an entry it belongs to
            # the cell above, as in `grid_sample`.
            self.below_rows = y.floor()
            self.cell_columns = torch.eq(b, x.floor(), out=scratch('cell columns', len(b), len(x)))
            self.entries = a

    def strips(self, table: Tensor) -> Tensor:
        """The band of the table read at every column: (n, band, W)."""
        table = table[self.band]
        out = self.scratch('strips', len(table), self.count * self.width)
        return torch.mm(table, self.hat_columns, out=out).view(len(table), self.count, -1).transpose(0, 1)

    def buffer(self, name: str, block: _QueryBlock) -> Tensor:
        """Memory for (n, queries of the block) values."""
        return self.scratch(name, self.count, self.hat_rows[:, block.rows].shape[1] * self.width)

    def bias(self, strips: Tensor, block: _QueryBlock) -> Tensor:
        """(n, queries of the block)."""
        out = self.buffer('logits', block)
        torch.bmm(self.hat_rows[:, block.rows, block.band], strips[:, block.band],
                  out=out.view(self.count, -1, self.width))
        return out

    def bias_backward(self, grad: Tensor, strips: Tensor, block: _QueryBlock, grad_strips: Tensor) -> None:
        """Add what the gradient of the bias (n, queries of the block) gives to the strips and to the heights."""
        hat, strips = self.hat_rows[:, block.rows, block.band], strips[:, block.band]
        grad = grad.view(self.count, -1, self.width)
        if len(self.query_blocks) == 1:
            grad_strips.baddbmm_(hat.transpose(1, 2), grad)
        else:       # a slice would be multiplied key by key
            grad_strips[:, block.band] += torch.bmm(hat.transpose(1, 2), grad, out=self.scratch('part', *strips.shape))
        by_entry = torch.bmm(grad, strips.transpose(1, 2), out=self.scratch('by entry', *hat.shape))
        entries, below = self.entries[block.band], self.below_rows[:, block.rows]
        slope = torch.eq(entries, below + 1, out=self.scratch('slope', *hat.shape))
        slope -= torch.eq(entries, below, out=self.scratch('slope below', *hat.shape))
        assert self.grad_points is not None
        self.grad_points[:, 0] -= by_entry.mul_(slope).sum((1, 2)) * self.per_cell[0]

    def strips_backward(self, grad_strips: Tensor, table: Tensor, grad_table: Tensor) -> None:
        """Add what the gradient of the strips gives to the table and to the horizontal positions."""
        table = table[self.band]
        grad = self.scratch('grad', len(table), self.count, self.width).copy_(grad_strips.transpose(0, 1)).flatten(1)
        grad_table[self.band].addmm_(grad, self.hat_columns.t())
        steps = torch.nn.functional.pad(table, (1, 1)).diff()                               # (band, Tx + 1)
        slopes = torch.mm(steps, self.cell_columns, out=self.scratch('slopes', *grad.shape))
        by_column = slopes.mul_(grad).view(len(table), self.count, self.width)
        assert self.grad_points is not None
        self.grad_points[:, 1] -= by_column.sum((0, 2)) * self.per_cell[1]


def _hat(entries: Tensor, read: Tensor, out: Tensor) -> Tensor:
    """max(0, 1 - |entry - read|)"""
    return torch.sub(entries, read, out=out).abs_().neg_().add_(1).clamp_(min=0)
