"""Attention inside groups of tokens (CrossFormer, Wang et al., ICLR 2022, section 3.2): near groups are windows, far
groups take every `interval`-th token.

Shapes: B batch, (H, W) map, C channels, h heads, d = C / h, r groups of n = y x tokens.
"""
import math

import torch
import torch.nn.functional as F
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
        backend (str | None): 'views', or 'reference' for the plain formula, which is never chosen by itself but where a
            compiler traces; the environment variable MMATTN_GROUPED_ATTENTION names one too.

    Returns:
        Tensor: (B, H, W, C).

    Raises:
        ValueError: unknown backend.
    """
    name = choose_backend(['views'], lambda name: [], BACKEND_VARIABLE, backend, ('reference',))
    if name == 'reference' or torch.compiler.is_compiling():      # views of strides of their own cannot be traced
        return reference.grouped_attention(x, qkv, proj, bias, num_heads, interval)
    return _GroupedAttention.apply(x, bias, *qkv, *proj, num_heads, interval)


class _GroupedAttention(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, bias, *args):
        *projections, num_heads, interval = args
        ctx.save_for_backward(x, bias, *projections)
        ctx.heads_and_interval = num_heads, interval
        device = x.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        qkv_weight, qkv_bias, proj_weight, proj_bias = _cast(projections, ctx.dtype)
        out = torch.empty_like(x, dtype=ctx.dtype)
        with torch.autocast(device, enabled=False):
            for part, (x_part, out_part) in _blocks(bias, interval, x, out):
                tokens = _tokens(x_part).to(ctx.dtype)
                qkv = _by_head(F.linear(tokens, qkv_weight, qkv_bias), x_part, num_heads)
                values = attention(*qkv, _matrix(bias[part])[None])
                values = F.linear(values.transpose(1, 2).reshape(tokens.shape), proj_weight, proj_bias)
                out_part.copy_(values.view(out_part.shape))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, bias, *projections = ctx.saved_tensors
        num_heads, interval = ctx.heads_and_interval
        scale = (x.shape[-1] // num_heads) ** -0.5
        qkv_weight, qkv_bias, proj_weight, _ = _cast(projections, ctx.dtype)
        grad_x, grad_bias = torch.empty_like(x), torch.zeros_like(bias)
        grads = [None if t is None else torch.zeros_like(t) for t in projections]
        for part, (x_part, grad_x_part, grad_part) in _blocks(bias, interval, x, grad_x, grad_out):
            tokens, grad = _tokens(x_part).to(ctx.dtype), _tokens(grad_part)
            q, k, v = (t.contiguous() for t in _by_head(F.linear(tokens, qkv_weight, qkv_bias), x_part, num_heads))
            logits = (_exact(q) @ _exact(k).mT).mul_(scale).add_(_matrix(bias[part]))               # (r, h, n, n)
            weights = logits.softmax(-1)
            low = weights.to(ctx.dtype)
            _accumulate(grads[2:], grad, (low @ v).transpose(1, 2).reshape(tokens.shape))
            grad_values = (grad @ proj_weight).view(len(q), q.shape[2], *q.shape[1::2]).transpose(1, 2).contiguous()
            grad_logits = (grad_values @ v.mT).to(weights.dtype)
            grad_logits = grad_logits.sub_((grad_logits * weights).sum(-1, keepdim=True)).mul_(weights)
            grad_bias[part] += grad_logits.sum(0).view_as(bias[part])
            grad_logits = grad_logits.mul_(scale).to(ctx.dtype)
            grad_qkv = tokens.new_empty(len(tokens), 3 * tokens.shape[1])
            for target, value in zip(_by_head(grad_qkv, x_part, num_heads),
                                     (grad_logits @ k, grad_logits.mT @ q, low.mT @ grad_values)):
                target.copy_(value)
            _accumulate(grads[:2], grad_qkv, tokens)
            grad_x_part.copy_((grad_qkv @ qkv_weight).view(grad_x_part.shape))
        return grad_x, grad_bias, *grads, None, None


def _tokens(view):
    """(b, ry, iy, rx, ix, y, x, C) -> (r n, C)."""
    return view.reshape(-1, view.shape[-1])


def _by_head(qkv, view, num_heads):
    """(r n, 3 C) of the groups of a view -> queries, keys and values (r, h, n, d), without a copy."""
    count = view.shape[5] * view.shape[6]
    return qkv.unflatten(1, (3, num_heads, -1)).unflatten(0, (len(qkv) // count, count)).permute(2, 0, 3, 1, 4)


def _accumulate(grads, grad, x):
    """Add the gradients of the weight and bias of a linear map of x (N, C) whose output has the gradient (N, C')."""
    weight, bias = grads
    weight += (grad.mT @ x).to(weight.dtype)
    if bias is not None:
        bias += grad.sum(0)


def _cast(tensors, dtype):
    return [None if t is None else t.to(dtype) for t in tensors]


def _exact(x):
    """Float32 at least: products of float16 overflow, those of bfloat16 lose what tells logits apart."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _matrix(bias):
    """(h, y, x, y, x) -> (h, n, n)."""
    return bias.flatten(3).flatten(1, 2)


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
