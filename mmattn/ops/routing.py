"""Bi-level routing attention (Zhu et al., CVPR 2023, section 3.2): regions choose regions, then tokens attend to the
tokens of the chosen regions.

Shapes: B batch, R regions, N tokens of a query region, M keys of a region, k routes per region, h heads. Tokens lie
region by region, see `mmattn.ops.partition.window_partition`.
"""
import math

import torch
from einops import rearrange
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.backend import choose_backend

BACKEND_VARIABLE = 'MMATTN_ROUTED_ATTENTION'
BLOCK_GATHERED = 2 ** 22    # numbers of keys and values gathered at once


def top_routes(q, k, count, scale, usable=None):
    """The regions that attend most to each other (eqs. 4 and 5).

    Args:
        q, k (Tensor): (B, R, C) means of the queries and keys of each region.
        count (int): routes per region, at most R.
        scale (float): of the logits.
        usable (Tensor | None): (B, R) False where a region must not be chosen while others are left.

    Returns:
        tuple[Tensor, Tensor]: regions (B, R, count), int64, and their logits (B, R, count).
    """
    logits = q * scale @ k.transpose(1, 2)
    if usable is not None:
        logits = logits.masked_fill(~usable[:, None], -math.inf)
    logits, routes = logits.topk(count, dim=-1)
    return routes, logits


def routed_attention(q, k, v, routes, num_heads, scale, route_weights=None, key_mask=None, backend=None):
    """Attention of the tokens of a region to the keys of its routes (eqs. 6 and 7).

    Keys and values are gathered by the index of their region, for a few query regions at a time, and gathered again
    in the backward pass: nothing of the size R x R x M ever exists.

    Args:
        q (Tensor): (B, R, N, C) queries.
        k (Tensor): (B, R, M, C) keys.
        v (Tensor): (B, R, M, C') values.
        routes (Tensor): (B, R, k) regions whose keys a region attends to, int64.
        num_heads (int): divides C and C'.
        scale (float): of the logits.
        route_weights (Tensor | None): (B, R, k); multiply the keys and the values of a route (soft routing).
        key_mask (Tensor | None): (B, R, M) True where a key is real; each region needs a real key in its routes.
        backend (str | None): 'gathered', or 'reference' for the plain formula, which is never chosen by itself; the
            environment variable MMATTN_ROUTED_ATTENTION names one too.

    Returns:
        Tensor: (B, R, N, C').

    Raises:
        ValueError: unknown backend.
    """
    if choose_backend(['gathered'], lambda name: [], BACKEND_VARIABLE, backend, ('reference',)) == 'reference':
        return reference.routed_attention(q, k, v, routes, num_heads, scale, route_weights, key_mask)
    batch, regions = routes.shape[:2]
    flat = (routes + torch.arange(batch, device=routes.device)[:, None, None] * regions).flatten(0, 1)     # (B R, k)
    flatten = [None if t is None else t.flatten(0, 1) for t in (q, k, v, route_weights, key_mask)]
    return _RoutedAttention.apply(*flatten, flat, num_heads, scale).unflatten(0, (batch, regions))


class _RoutedAttention(torch.autograd.Function):
    """The same with batch and regions in one axis; keeps the inputs only."""

    @staticmethod
    def forward(ctx, q, k, v, weights, mask, routes, num_heads, scale):
        ctx.save_for_backward(q, k, v, weights, mask, routes)
        ctx.heads_and_scale = num_heads, scale
        return torch.cat([
            _attend(q[rows], k[routes[rows]], v[routes[rows]], None if weights is None else weights[rows],
                    None if mask is None else mask[routes[rows]], num_heads, scale)
            for rows in _blocks(k, v, routes)])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, weights, mask, routes = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.zeros_like(t) for t in (q, k, v))
        grad_weights = None if weights is None else torch.zeros_like(weights)
        for rows in _blocks(k, v, routes):
            chosen = routes[rows]
            with torch.enable_grad():
                inputs = [t.detach().requires_grad_() for t in (q[rows], k[chosen], v[chosen])]
                if weights is not None:
                    inputs.append(weights[rows].detach().requires_grad_())
                out = _attend(*inputs, *[None] * (4 - len(inputs)), None if mask is None else mask[chosen],
                              *ctx.heads_and_scale)
            parts = torch.autograd.grad(out, inputs, grad_out[rows])
            grad_q[rows] = parts[0]
            for grad, part in zip((grad_k, grad_v), parts[1:3]):
                grad.index_add_(0, chosen.flatten(), part.flatten(0, 1))
            if weights is not None:
                grad_weights[rows] = parts[3]
        return grad_q, grad_k, grad_v, grad_weights, None, None, None, None


def _blocks(k, v, routes):
    """Slices of query regions whose gathered keys and values are few enough."""
    step = max(1, BLOCK_GATHERED // (routes.shape[1] * (k[0].numel() + v[0].numel())))
    return [slice(start, start + step) for start in range(0, len(routes), step)]


def _attend(q, k, v, weights, mask, num_heads, scale):
    """q (r, N, C), k (r, k, M, C), v (r, k, M, C'), weights (r, k), mask (r, k, M) -> (r, N, C')."""
    if weights is not None:
        k, v = k * weights[..., None, None], v * weights[..., None, None]
    if mask is not None:
        mask = mask.flatten(1)[:, None, None]
    q = rearrange(q, 'r n (h d) -> r h n d', h=num_heads)
    k, v = (rearrange(t, 'r k m (h d) -> r h (k m) d', h=num_heads) for t in (k, v))
    return rearrange(attention(q, k, v, mask, scale=scale), 'r h n d -> r n (h d)')
