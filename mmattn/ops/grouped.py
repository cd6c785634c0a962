"""Attention inside groups of tokens (CrossFormer, Wang et al., ICLR 2022, section 3.2): near groups are windows, far
groups take every `interval`-th token.

Shapes: B batch, (H, W) map, C channels, h heads, d = C / h, r groups of n = y x tokens.
"""
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.backend import choose_backend
from mmattn.ops.partition import group_views

BACKEND_VARIABLE = 'MMATTN_GROUPED_ATTENTION'
BLOCK_LOGITS = {'cpu': 2 ** 20}     # of a few groups, about what caches hold; 2 ** 26 elsewhere


def grouped_attention(x, qkv, proj, bias, num_heads, interval=1, backend=None):
    """Self-attention of every token to the tokens of its group, with its projections.

    Groups at the bottom and right have fewer tokens where the map is no multiple of a group: the same as completing
    the map with zeros that no one attends to. A few groups at a time are read out of the map, projected, attended and
    written back, and again in the backward pass, so that only the input is kept.

    Args:
        x (Tensor): (B, H, W, C).
        qkv (tuple[Tensor, Tensor | None]): (3 C, C) weight and (3 C,) bias that make queries, keys and values.
        proj (tuple[Tensor, Tensor | None]): (C, C) weight and (C,) bias of the output.
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
        return reference.grouped_attention(x, qkv, proj, bias, num_heads, interval)
    return _GroupedAttention.apply(x, bias, *qkv, *proj, num_heads, interval)


class _GroupedAttention(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, bias, *args):
        *weights, num_heads, interval = args
        ctx.save_for_backward(x, bias, *weights)
        device = x.device.type
        ctx.autocast = dict(device_type=device, enabled=torch.is_autocast_enabled(device),
                            dtype=torch.get_autocast_dtype(device))
        ctx.heads_and_interval = num_heads, interval
        out = torch.empty_like(x, dtype=ctx.autocast['dtype'] if ctx.autocast['enabled'] else x.dtype)
        for part, (x_part, out_part) in _blocks(bias, interval, x, out):
            out_part.copy_(_attend(x_part, bias[part], *weights, num_heads).view(out_part.shape))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, *weights = (None if t is None else t.detach() for t in ctx.saved_tensors)
        weights = [None if t is None else t.requires_grad_() for t in weights]      # their gradients gather in .grad
        num_heads, interval = ctx.heads_and_interval
        grad_x = torch.empty_like(x)
        for part, (x_part, grad_x_part, grad_part) in _blocks(weights[0], interval, x, grad_x, grad_out):
            leaf = x_part.detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                out = _attend(leaf, weights[0][part], *weights[1:], num_heads)
            out.backward(grad_part.reshape(out.shape))
            grad_x_part.copy_(leaf.grad)
        return grad_x, *(None if t is None else t.grad for t in weights), None, None


def _attend(x, bias, qkv_weight, qkv_bias, proj_weight, proj_bias, num_heads):
    """Groups (b, ry, iy, rx, ix, y, x, C) -> their outputs (r n, C)."""
    count, channels = bias.shape[1] * bias.shape[2], x.shape[-1]
    x = x.reshape(-1, channels)
    biases = [None] * 3 if qkv_bias is None else qkv_bias.chunk(3)
    q, k, v = (rearrange(F.linear(x, *parts), '(r n) (h d) -> r h n d', n=count, h=num_heads)
               for parts in zip(qkv_weight.chunk(3), biases))
    out = attention(q, k, v, bias.flatten(3).flatten(1, 2)[None])
    return F.linear(rearrange(out, 'r h n d -> (r n) (h d)'), proj_weight, proj_bias)


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
