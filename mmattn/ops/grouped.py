"""Attention inside groups of tokens (CrossFormer, Wang et al., ICLR 2022, section 3.2): near groups are windows, far
groups take every `interval`-th token.

Shapes: B batch, (H, W) map, C channels, h heads, d = C / h, r groups of n = y x tokens.
"""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.dispatch import Budget, Implementation, Implementations, for_comparison, is_traced
from mmattn.ops.partition import (
    bias_windows,
    ceil_div,
    crop,
    group_views,
    pad_to_multiple,
    relative_bias,
    sum_antidiagonals,
)
from mmattn.ops.precision import autocast_dtype, without_autocast

Projection = tuple[Tensor, Tensor | None]       # weight and bias
PADDED_LOGITS = Budget(cpu=0, share=1 / 8)
QUERIES = 64                    # of a group at a time, at least, so that the groups of a block share its bias


def grouped_attention(x: Tensor, qkv: Projection, proj: Projection, table: Tensor, num_heads: int, interval: int = 1,
                      backend: str | None = None) -> Tensor:
    """Self-attention of every token to the tokens of its group, with its projections.

    Groups at the bottom and right have fewer tokens where the map is no multiple of a group: the same as completing
    the map with zeros that no one attends to.

    Args:
        x: (B, H, W, C).
        qkv: (3 C, C) weight and (3 C,) bias that make queries, keys and values.
        proj: (C, C) weight and (C,) bias of the output.
        table: (h, 2 gy - 1, 2 gx - 1) for groups of (gy, gx) tokens, added to the logits by displacement query - key,
            (y, x) in tokens; the middle is displacement zero.
        num_heads: heads h, divides C.
        interval: pixels from one token of a group to the next; 1 for near groups.
        backend: one of `IMPLEMENTATIONS`; None for the one that the environment variable
            MMATTN_GROUPED_ATTENTION names, or else for the first that can run.

    Returns:
        (B, H, W, C).

    Raises:
        ArgumentError: the backend asked for is unknown or cannot run.
    """
    return IMPLEMENTATIONS.run(backend, x, qkv, proj, table, num_heads, interval)


def _views(x: Tensor, qkv: Projection, proj: Projection, table: Tensor, num_heads: int, interval: int, *, logits: int,
           bias: int) -> Tensor:
    """A few groups at a time are read out of the map, projected, attended and written back, a few rows of queries
    after the other where groups are large, and again in the backward pass: kept are the input and what attention
    gives, and of the bias and the logits there is a block at a time."""
    options = num_heads, interval, logits, bias
    if table.shape[2] > table.shape[1]:     # of wide groups, the gradient of the bias would take more memory
        out: Tensor = _GroupedAttention.apply(x.transpose(1, 2), table.mT, *qkv, *proj, *options)
        return out.transpose(1, 2)
    return _GroupedAttention.apply(x, table, *qkv, *proj, *options)


def _padded(x: Tensor, qkv: Projection, proj: Projection, table: Tensor, num_heads: int, interval: int) -> Tensor:
    """The whole map at once, completed to whole groups, in few and large calls. Keys that complete it have a logit that
    no other comes near; where all of a group do, nobody reads what comes out."""
    height, width = x.shape[1:3]
    group = [side // 2 + 1 for side in table.shape[1:]]
    square = [side * interval for side in group]
    parts = pad_to_multiple(F.linear(x, *qkv), square)
    q, k, v = rearrange(parts, 'b (ry gy iy) (rx gx ix) (three h d) -> three (b ry iy rx ix) h (gy gx) d', three=3,
                        gy=group[0], gx=group[1], iy=interval, ix=interval, h=num_heads)
    bias = relative_bias(table, group).to(q.dtype)[None]
    if parts.shape[1:3] != x.shape[1:3]:
        real = pad_to_multiple(x.new_ones(1, height, width, 1), square)
        real = rearrange(real, '1 (ry gy iy) (rx gx ix) 1 -> (ry iy rx ix) 1 1 (gy gx)', gy=group[0], gx=group[1],
                         iy=interval, ix=interval)
        bias = bias.masked_fill(real == 0, torch.finfo(q.dtype).min / 4)                        # (G, h, n, n)
        bias = bias.expand(len(x), *bias.shape).flatten(0, 1)
    out = rearrange(attention(q, k, v, bias), '(b ry iy rx ix) h (gy gx) d -> b (ry gy iy) (rx gx ix) (h d)',
                    b=len(x), ry=parts.shape[1] // square[0], gy=group[0], iy=interval, ix=interval,
                    rx=parts.shape[2] // square[1])
    return F.linear(crop(out, height, width), *proj)


def _padded_reservations(x: Tensor, qkv: Projection, proj: Projection, table: Tensor, num_heads: int,
                         interval: int) -> list[str]:
    if x.is_cpu:
        return ['a few groups at a time fit the caches of a CPU']
    group = [side // 2 + 1 for side in table.shape[1:]]
    padded = [ceil_div(side, part * interval) * part * interval for side, part in zip(x.shape[1:3], group)]
    logits = len(x) * num_heads * padded[0] * padded[1] * group[0] * group[1]
    if logits > PADDED_LOGITS.on(x.device):
        return [f'the gradient of the bias would be {logits} numbers at a time']
    return []


def _views_refusals(*args: object) -> list[str]:
    return ['its views of the map and its backward pass cannot be traced'] if is_traced() else []


IMPLEMENTATIONS = Implementations('grouped_attention', 'MMATTN_GROUPED_ATTENTION', {
    'padded': Implementation(_padded, reservations=_padded_reservations),
    'views': Implementation(_views, _views_refusals, budgets={
        'logits': Budget(cpu=2 ** 20, share=1 / 64),       # in the backward pass
        'bias': Budget(cpu=2 ** 22, share=1 / 64)}),       # forward, where PyTorch's attention holds no logits
    'reference': Implementation(reference.grouped_attention, reservations=for_comparison),
}, fallback='reference')


class _GroupedAttention(torch.autograd.Function):
    """Keys and values of a group are counted from the last, see `bias_windows`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, *args: Any) -> Tensor:
        *projections, num_heads, interval, logits_budget, bias_budget = args
        dtype = autocast_dtype(x.device, x.dtype)
        qkv_weight, qkv_bias, proj_weight, proj_bias = _cast(projections, dtype)
        values, out = (torch.empty_like(x, dtype=dtype) for _ in range(2))
        with without_autocast(x.device):
            for part, (x_part, values_part, out_part) in _blocks(bias_budget, table, interval, x, values, out):
                tokens = _tokens(x_part).to(dtype)
                q, k, v = _by_head(F.linear(tokens, qkv_weight, qkv_bias), x_part, num_heads)           # (r, h, n, d)
                k, v = k.flip(2), v.flip(2)
                attended = torch.empty_like(tokens)
                by_head, = _by_head(attended, x_part, num_heads)
                bias = bias_windows(table[part], x_part.shape[5:7])
                for block in _query_blocks(bias, bias_budget):
                    of_block = block.of(bias).flatten(3).flatten(1, 2)                                  # (h, m, n)
                    by_head[:, :, block.queries] = attention(q[:, :, block.queries], k, v, of_block[None])
                values_part.copy_(attended.view(x_part.shape))
                out_part.copy_(F.linear(attended, proj_weight, proj_bias).view(x_part.shape))
        ctx.save_for_backward(x, table, values, *projections)
        ctx.options = num_heads, interval, logits_budget
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, table, values, *projections = ctx.saved_tensors
        num_heads, interval, budget = ctx.options
        # Logits are float32 at least: products of float16 overflow, those of bfloat16 lose what tells logits apart.
        dtype, wide = values.dtype, torch.promote_types(values.dtype, torch.float32)
        scale = (x.shape[-1] // num_heads) ** -0.5
        qkv_weight, qkv_bias, proj_weight, _ = _cast(projections, dtype)
        grad_x = torch.empty_like(x)
        grads = [None if t is None else torch.zeros_like(t) for t in projections]
        columns = table.shape[2] // 2 + 1
        grad_bias = table.new_zeros(*table.shape[:2], columns, columns, dtype=wide)     # (h, 2 gy - 1, qx, kx)
        for part, (x_part, values_part, grad_x_part, grad_part) in _blocks(budget, table, interval, x, values, grad_x,
                                                                           grad_out):
            tokens, grad = _tokens(x_part).to(dtype), _tokens(grad_part)
            _accumulate(grads[2:], grad, _tokens(values_part))
            q, k, v = _by_head(F.linear(tokens, qkv_weight, qkv_bias), x_part, num_heads)               # (r, h, n, d)
            q, k, v = (q * scale).contiguous(), k.flip(2).contiguous(), v.flip(2).contiguous()
            grad = _by_head(grad @ proj_weight, x_part, num_heads)[0].contiguous()
            grad_q = torch.empty_like(q)
            grad_k, grad_v = (torch.zeros_like(t, dtype=wide) for t in (k, v))
            wide_k, wide_v = k.to(wide), v.to(wide)
            bias = bias_windows(table[part], x_part.shape[5:7])
            for block in _query_blocks(bias, budget // max(1, len(q))):
                at = slice(None), slice(None), block.queries
                by_place = len(q), *block.of(bias).shape                                    # (r, h, qy, qx, ky, kx)
                logits, weights = grad_k.new_empty(2, *q[at].shape[:3], q.shape[2])         # (r, h, m, n)
                logits.view(by_place).copy_(block.of(bias))
                torch.softmax(_add_product(logits, q[at].to(wide), wide_k.mT), -1, out=weights)
                _add_product(grad_v, weights.to(dtype).mT, grad[at])
                grad_logits = torch.matmul(grad[at].to(wide), wide_v.mT, out=logits).mul_(weights)
                grad_logits.addcmul_(weights, grad_logits.sum(-1, keepdim=True), value=-1)
                _add_bias_gradient(grad_bias, grad_logits.view(by_place), block)
                grad_logits = grad_logits.to(dtype)
                grad_q[at] = grad_logits @ k
                _add_product(grad_k, grad_logits.mT, q[at])
            grad_qkv = torch.stack([grad_q * scale, grad_k.flip(2), grad_v.flip(2)], 3)             # (r, h, n, 3, d)
            grad_qkv = grad_qkv.permute(0, 2, 3, 1, 4).reshape(len(tokens), len(qkv_weight)).to(dtype)
            _accumulate(grads[:2], grad_qkv, tokens)
            grad_x_part.copy_((grad_qkv @ qkv_weight).view(grad_x_part.shape))
        return grad_x, sum_antidiagonals(grad_bias).to(table.dtype), *grads, None, None, None, None


@dataclass
class _QueryBlock:
    rows: slice         # of the queries of a group: whole rows, or a part of one
    columns: slice
    queries: slice      # the same, counted in queries

    def of(self, bias: Tensor) -> Tensor:
        """Their part of a bias (h, gy, gx, gy, gx)."""
        return bias[:, self.rows, self.columns]


def _query_blocks(bias: Tensor, budget: int) -> Iterator[_QueryBlock]:
    """The queries of a group with a bias (h, gy, gx, gy, gx), as many at a time as have a bias of `budget` numbers."""
    height, width = bias.shape[1:3]
    count = max(1, budget // (len(bias) * height * width))
    rows, columns = max(1, count // width), min(count, width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        for left in range(0, width, columns):
            right = min(left + columns, width)
            yield _QueryBlock(slice(top, bottom), slice(left, right),
                              slice(top * width + left, (bottom - 1) * width + right))


def _add_bias_gradient(target: Tensor, grad: Tensor, block: _QueryBlock) -> None:
    """Add that of a few groups (r, h, qy, qx, ky, kx) to what is summed up by displacement in y, and by query and key
    in x: (h, 2 gy - 1, gx, gx)."""
    height, width = grad.shape[4:]
    top = target.shape[1] // 2 + 1 - height + block.rows.start
    for i, row in enumerate(grad.unbind(2)):
        target[:, top + i:top + i + height, block.columns, -width:] += row.sum(0).transpose(1, 2)


def _tokens(view: Tensor) -> Tensor:
    """(b, ry, iy, rx, ix, y, x, C) -> (r n, C)."""
    return view.reshape(-1, view.shape[-1])


def _by_head(tokens: Tensor, view: Tensor, num_heads: int) -> Tensor:
    """(r n, p C) of the groups of a view -> p parts (r, h, n, d), for example queries, keys and values; no copy."""
    count, channels = view.shape[5:7].numel(), view.shape[7]
    parts = tokens.unflatten(1, (-1, num_heads, channels // num_heads))
    return parts.unflatten(0, (len(tokens) // count, count)).permute(2, 0, 3, 1, 4)


def _add_product(target: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Add a (r, h, m, k) @ b (r, h, k, n) to the target, which may have a wider dtype."""
    if a.dtype != target.dtype:
        return target.add_(a @ b)
    target.flatten(0, 1).baddbmm_(a.flatten(0, 1), b.flatten(0, 1))
    return target


def _accumulate(grads: Sequence[Any], grad: Tensor, x: Tensor) -> None:
    """Add the gradients of the weight and bias of a linear map of x (N, C) whose output has the gradient (N, C')."""
    weight, bias = grads
    weight += (grad.mT @ x).to(weight.dtype)
    if bias is not None:
        bias += grad.sum(0)


def _cast(tensors: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    return [None if t is None else t.to(dtype) for t in tensors]


def _blocks(budget: int, table: Tensor, interval: int,
            *maps: Tensor) -> Iterator[tuple[tuple[slice, ...], tuple[Tensor, ...]]]:
    """A few groups of equal shape at a time: the part of `table` for them, and their views into each of `maps`."""
    whole = [side // 2 + 1 for side in table.shape[1:]]
    for views in zip(*(group_views(t, whole, interval) for t in maps)):
        part = slice(None), *(slice(most - side, most + side - 1) for most, side in zip(whole, views[0].shape[5:7]))
        tokens = views[0].shape[5:7].numel()
        limit = budget // (len(table) * tokens * min(tokens, QUERIES))
        for block in _split(views, max(1, limit)):
            yield part, block


def _split(views: tuple[Tensor, ...], limit: int) -> Iterator[tuple[Tensor, ...]]:
    """Slices of the views along their leading axes, of at most `limit` groups each."""
    leading = views[0].shape[:5]
    count = math.prod(leading)
    if count <= limit:
        yield views
        return
    axis = next(i for i, n in enumerate(leading) if n > 1)
    for parts in zip(*(t.split(max(1, limit * leading[axis] // count), axis) for t in views)):
        yield from _split(parts, limit)
