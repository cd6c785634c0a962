"""Attention inside groups of tokens (CrossFormer, Wang et al., ICLR 2022, section 3.2): near groups are windows, far
groups take every `interval`-th token.

Shapes: B batch, (H, W) map, C channels, h heads, d = C / h, r groups of n tokens.
"""
import math

import torch
from einops import rearrange
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.backend import choose_backend
from mmattn.ops.partition import group_views

BACKEND_VARIABLE = 'MMATTN_GROUPED_ATTENTION'
BLOCK_LOGITS = {'cpu': 2 ** 19}     # of a few groups, about what caches hold; 2 ** 26 elsewhere


def grouped_attention(q, k, v, bias, num_heads, interval=1, backend=None):
    """Attention of every token to the tokens of its group.

    Groups at the bottom and right have fewer tokens where the map is no multiple of a group: the same as completing
    the map with zeros that no one attends to. Only the inputs are kept; logits are made again in the backward pass,
    for a few groups at a time.

    Args:
        q, k, v (Tensor): (B, H, W, C) queries, keys and values.
        bias (Tensor): (h, gy, gx, gy, gx) added to the logit of a query and a key at their places in a group.
        num_heads (int): heads h, divides C.
        interval (int): pixels from one token of a group to the next; 1 for near groups.
        backend (str | None): 'views', or 'reference' for the plain formula, which is never chosen by itself; the
            environment variable MMATTN_GROUPED_ATTENTION names one too.

    Returns:
        Tensor: (B, H, W, C).

    Raises:
        ValueError: unknown backend.
    """
    if choose_backend(['views'], lambda name: [], BACKEND_VARIABLE, backend, ('reference',)) == 'reference':
        return reference.grouped_attention(q, k, v, bias, num_heads, interval)
    return _GroupedAttention.apply(q, k, v, bias, num_heads, interval)


class _GroupedAttention(torch.autograd.Function):

    @staticmethod
    def forward(ctx, q, k, v, bias, num_heads, interval):
        ctx.save_for_backward(q, k, v, bias)
        ctx.heads_and_interval = num_heads, interval
        out = torch.empty_like(v)
        for part, (*inputs, out_part) in _blocks(bias, interval, q, k, v, out):
            q_part, k_part, v_part = (_heads_first(t, num_heads) for t in inputs)
            _write(out_part, attention(q_part, k_part, v_part, _matrix(bias[part])[None]))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, bias = ctx.saved_tensors
        num_heads, interval = ctx.heads_and_interval
        scale = (q.shape[-1] // num_heads) ** -0.5
        grads, grad_bias = [torch.empty_like(t) for t in (q, k, v)], torch.zeros_like(bias)
        for part, parts in _blocks(bias, interval, q, k, v, grad_out, *grads):
            q_part, k_part, v_part, grad = (_heads_first(t, num_heads) for t in parts[:4])
            logits = (_exact(q_part) @ _exact(k_part).mT).mul_(scale).add_(_matrix(bias[part]))     # (r, h, n, n)
            weights = logits.softmax(-1)
            grad_logits = grad @ v_part.mT
            grad_logits = weights * (grad_logits - (grad_logits * weights).sum(-1, keepdim=True))
            grad_bias[part] += grad_logits.sum(0).view_as(bias[part])
            weights, grad_logits = weights.to(grad.dtype), (grad_logits * scale).to(grad.dtype)
            for target, value in zip(parts[4:], (grad_logits @ k_part, grad_logits.mT @ q_part, weights.mT @ grad)):
                _write(target, value)
        return *grads, grad_bias, None, None


def _blocks(bias, interval, *maps):
    """A few groups of equal shape at a time: the part of `bias` for them, and their views into each of `maps`."""
    for views in zip(*(group_views(t, bias.shape[1:3], interval) for t in maps)):
        rows, columns = views[0].shape[5:7]
        part = slice(None), slice(rows), slice(columns), slice(rows), slice(columns)
        limit = BLOCK_LOGITS.get(maps[0].device.type, 2 ** 26) // (len(bias) * (rows * columns) ** 2)
        for block in _split(views, max(1, limit)):
            yield part, block


def _split(views, limit):
    """Slices of the views along their leading axes, of at most `limit` groups each."""
    leading = views[0].shape[:5]
    count = math.prod(leading)
    if count <= limit:
        yield views
        return
    axis = next(i for i, n in enumerate(leading) if n > 1)
    for parts in zip(*(t.split(max(1, limit * leading[axis] // count), axis) for t in views)):
        yield from _split(parts, limit)


def _exact(x):
    """Float32 at least: products of float16 overflow, those of bfloat16 lose what tells logits apart."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _matrix(bias):
    """(h, y, x, y, x) -> (h, n, n)."""
    return bias.flatten(3).flatten(1, 2)


def _heads_first(view, num_heads):
    """(b, ry, iy, rx, ix, y, x, C) -> (r, h, n, d)."""
    return rearrange(view, 'b ry iy rx ix y x (h d) -> (b ry iy rx ix) h (y x) d', h=num_heads)


def _write(view, values):
    """(r, h, n, d) into (b, ry, iy, rx, ix, y, x, C), in one copy."""
    b, ry, iy, rx, ix, y, _, _ = view.shape
    view.unflatten(-1, (values.shape[1], -1)).copy_(rearrange(
        values, '(b ry iy rx ix) h (y x) d -> b ry iy rx ix y x h d', b=b, ry=ry, iy=iy, rx=rx, ix=ix, y=y))
