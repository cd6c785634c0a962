"""Bi-level routing attention (Zhu et al., CVPR 2023, section 3.2): regions choose regions, then tokens attend to the
tokens of the chosen regions.

Shapes: B batch, (Gy, Gx) grid of regions, N tokens of a query region, M keys of a region, k routes per region, h
heads. Maps are channels-last; the grid cuts them into equal regions, numbered row by row.
"""
import math

import torch
from einops import rearrange
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.backend import choose_backend

BACKEND_VARIABLE = 'MMATTN_ROUTED_ATTENTION'
BLOCK = {'cpu': 2 ** 21}    # keys and values gathered at once, about what caches hold; 2 ** 26 numbers elsewhere


def region_view(x, grid):
    """A channels-last map (B, H, W, C), seen region by region without a copy: (B, Gy, Gx, H / Gy, W / Gx, C)."""
    return x.unflatten(2, (grid[1], -1)).unflatten(1, (grid[0], -1)).transpose(2, 3)


def top_routes(q, k, count, scale, usable=None):
    """The regions that attend most to each other (eqs. 4 and 5).

    Args:
        q, k (Tensor): (B, Gy, Gx, C) means of the queries and keys of each region.
        count (int): routes per region, at most Gy Gx.
        scale (float): of the logits.
        usable (Tensor | None): (B, Gy, Gx) False where a region must not be chosen while others are left.

    Returns:
        tuple[Tensor, Tensor]: regions (B, Gy, Gx, count), int64, and their logits (B, Gy, Gx, count).
    """
    logits = q.flatten(1, 2) * scale @ k.flatten(1, 2).transpose(1, 2)
    if usable is not None:
        logits = logits.masked_fill(~usable.flatten(1)[:, None], -math.inf)
    logits, routes = logits.topk(count, dim=-1)
    return routes.view(*q.shape[:3], count), logits.view(*q.shape[:3], count)


def routed_attention(q, k, v, routes, num_heads, scale, route_weights=None, key_mask=None, backend=None):
    """Attention of the tokens of a region to the keys of its routes (eqs. 6 and 7).

    Keys and values are read out of their maps by the index of their region, for a few query regions at a time, and
    read again in the backward pass: nothing of the size regions x regions x M ever exists.

    Args:
        q (Tensor): (B, H, W, C) queries.
        k (Tensor): (B, H', W', C) keys, a map of another size where regions have other numbers of keys than queries.
        v (Tensor): (B, H', W', C') values.
        routes (Tensor): (B, Gy, Gx, k) regions whose keys a region attends to, int64.
        num_heads (int): divides C and C'.
        scale (float): of the logits.
        route_weights (Tensor | None): (B, Gy, Gx, k); multiply the keys and the values of a route (soft routing).
        key_mask (Tensor | None): (B, H', W') True where a key is real; each region needs a real key in its routes.
        backend (str | None): 'gathered', or 'reference' for the plain formula, which is never chosen by itself; the
            environment variable MMATTN_ROUTED_ATTENTION names one too.

    Returns:
        Tensor: (B, H, W, C').

    Raises:
        ValueError: unknown backend.
    """
    if choose_backend(['gathered'], lambda name: [], BACKEND_VARIABLE, backend, ('reference',)) == 'reference':
        return reference.routed_attention(q, k, v, routes, num_heads, scale, route_weights, key_mask)
    if torch.compiler.is_compiling():
        return _traceable(q, k, v, route_weights, key_mask, routes, num_heads, scale)
    return _RoutedAttention.apply(q, k, v, route_weights, key_mask, routes, num_heads, scale)


def _traceable(q, k, v, weights, mask, routes, num_heads, scale):
    """The same without what compilers cannot trace: a backward pass of its own, and writing into views."""
    out = torch.cat([_attend(*parts, num_heads, scale) for _, *parts in _blocks(q, k, v, weights, mask, routes)])
    gy, gx = routes.shape[1:3]
    return rearrange(out, '(b gy gx) y x c -> b (gy y) (gx x) c', gy=gy, gx=gx)


class _RoutedAttention(torch.autograd.Function):
    """Keeps the inputs only."""

    @staticmethod
    def forward(ctx, q, k, v, weights, mask, routes, num_heads, scale):
        ctx.save_for_backward(q, k, v, weights, mask, routes)
        ctx.heads_and_scale = num_heads, scale
        out = v.new_empty(*q.shape[:3], v.shape[3])
        for index, *parts in _blocks(q, k, v, weights, mask, routes):
            region_view(out, routes.shape[1:3])[index] = _attend(*parts, num_heads, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, weights, mask, routes = ctx.saved_tensors
        batch, *grid = routes.shape[:3]
        regions = grid[0] * grid[1]
        flat = routes + torch.arange(batch, device=routes.device)[:, None, None, None] * regions
        grad_out = region_view(grad_out, grid)
        grad_q = torch.empty_like(q)
        grad_weights = None if weights is None else torch.empty_like(weights)
        # what reaches a key from many regions is summed in float32 at least
        grad_k, grad_v = (t.new_zeros(batch * regions, *region_view(t, grid).shape[3:],
                                      dtype=torch.promote_types(t.dtype, torch.float32)) for t in (k, v))
        for index, *parts, part_mask in _blocks(q, k, v, weights, mask, routes):
            inputs = [t.requires_grad_() for t in parts if t is not None]
            with torch.enable_grad():
                out = _attend(*parts, part_mask, *ctx.heads_and_scale)
            grads = torch.autograd.grad(out, inputs, grad_out[index])
            region_view(grad_q, grid)[index] = grads[0]
            for grad, part in zip((grad_k, grad_v), grads[1:3]):
                grad.index_add_(0, flat[index].flatten(), part.flatten(0, 1).to(grad.dtype))
            if weights is not None:
                grad_weights[index] = grads[3]
        grad_k, grad_v = (rearrange(t.to(k.dtype), '(b gy gx) y x c -> b (gy y) (gx x) c', gy=grid[0], gx=grid[1])
                          for t in (grad_k, grad_v))
        return grad_q, grad_k, grad_v, grad_weights, None, None, None, None


def _blocks(q, k, v, weights, mask, routes):
    """A few query regions at a time: their index into (B, Gy, Gx); their queries (r, y, x, C); the keys and values of
    their routes (r, k, y, x, C); their route weights (r, k); the mask of their keys (r, k, y, x, 1)."""
    batch, *grid, count = routes.shape
    q, k, v, mask = (None if t is None else region_view(t, grid)
                     for t in (q, k, v, None if mask is None else mask.expand(batch, -1, -1)[..., None]))
    every = torch.cartesian_prod(*(torch.arange(n, device=routes.device) for n in routes.shape[:3])).unbind(-1)
    gathered = count * (k.shape[3:].numel() + v.shape[3:].numel())
    step = max(1, BLOCK.get(q.device.type, 2 ** 26) // gathered)
    for index in zip(*(t.split(step) for t in every)):
        chosen = routes[index]
        chosen = index[0][:, None], chosen // grid[1], chosen % grid[1]
        yield (index, q[index], k[chosen], v[chosen], None if weights is None else weights[index],
               None if mask is None else mask[chosen])


def _attend(q, k, v, weights, mask, num_heads, scale):
    """Shapes as in `_blocks` -> (r, y, x, C')."""
    if weights is not None:
        k, v = ((t * weights[..., None, None, None]).to(t.dtype) for t in (k, v))
    if mask is not None:
        mask = mask.flatten(1)[:, None, None]
    size = q.shape[1:3]
    q = rearrange(q, 'r y x (h d) -> r h (y x) d', h=num_heads)
    k, v = (rearrange(t, 'r k y x (h d) -> r h (k y x) d', h=num_heads) for t in (k, v))
    return rearrange(attention(q, k, v, mask, scale=scale), 'r h (y x) d -> r y x (h d)', y=size[0])
