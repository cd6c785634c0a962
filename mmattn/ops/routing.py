"""Bi-level routing attention (Zhu et al., CVPR 2023, section 3.2): regions choose regions, then tokens attend to the
tokens of the chosen regions.

Shapes: B batch, (Gy, Gx) grid of regions, N tokens of a query region, M keys of a region, k routes per region, h
heads. Maps are channels-last; the grid cuts them into equal regions, numbered row by row.
"""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.dispatch import Budget, Implementation, Implementations, are_symbols, for_comparison, is_traced
from mmattn.ops.fused import kernel_refusals, kernel_reservations

MOST_PROGRAMS = 2 ** 16 - 1     # of a GPU along the second and third axis of a launch


def region_view(x: Tensor, grid: Sequence[int]) -> Tensor:
    """A channels-last map (B, H, W, C), seen region by region without a copy: (B, Gy, Gx, H / Gy, W / Gx, C)."""
    return x.unflatten(2, (grid[1], -1)).unflatten(1, (grid[0], -1)).transpose(2, 3)


def top_routes(q: Tensor, k: Tensor, count: int, scale: float,
               usable: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The regions that attend most to each other (eqs. 4 and 5).

    Args:
        q, k: (B, Gy, Gx, C) means of the queries and keys of each region.
        count: routes per region, at most Gy Gx.
        scale: of the logits.
        usable: (B, Gy, Gx) False where a region must not be chosen while others are left.

    Returns:
        regions (B, Gy, Gx, count), int64, and their logits (B, Gy, Gx, count).
    """
    logits = q.flatten(1, 2) * scale @ k.flatten(1, 2).transpose(1, 2)
    if usable is not None:
        logits = logits.masked_fill(~usable.flatten(1)[:, None], -math.inf)
    logits, routes = logits.topk(count, dim=-1)
    return routes.view(*q.shape[:3], count), logits.view(*q.shape[:3], count)


def routed_attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, num_heads: int, scale: float,
                     route_weights: Tensor | None = None, key_mask: Tensor | None = None,
                     backend: str | None = None) -> Tensor:
    """Attention of the tokens of a region to the keys of its routes (eqs. 6 and 7).

    Args:
        q: (B, H, W, C) queries.
        k: (B, H', W', C) keys, a map of another size where regions have other numbers of keys than queries.
        v: (B, H', W', C') values.
        routes: (B, Gy, Gx, k) regions whose keys a region attends to, int64.
        num_heads: divides C and C'.
        scale: of the logits.
        route_weights: (B, Gy, Gx, k); multiply the keys and the values of a route (soft routing).
        key_mask: (B, H', W') True where a key is real; each region needs a real key in its routes.
        backend: one of `IMPLEMENTATIONS`; None for the one that the environment variable
            MMATTN_ROUTED_ATTENTION names, or else for the first that can run.

    Returns:
        (B, H, W, C').

    Raises:
        ArgumentError: the backend asked for is unknown or cannot run.
    """
    return IMPLEMENTATIONS.run(backend, q, k, v, routes, num_heads, scale, route_weights, key_mask)


def _triton(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, num_heads: int, scale: float,
            route_weights: Tensor | None, key_mask: Tensor | None) -> Tensor:
    """Keys and values are read where they lie; logits exist a block at a time, inside a kernel."""
    from mmattn.ops.kernels import routing as kernels
    return kernels.routed_attention(q, k, v, routes, num_heads, scale, route_weights, key_mask)


def _triton_refusals(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, num_heads: int, scale: float,
                     route_weights: Tensor | None, key_mask: Tensor | None) -> list[str]:
    dims = q.shape[3] // num_heads, v.shape[3] // num_heads
    refusals = kernel_refusals((q, k, v), dims)
    if refusals:
        return refusals
    images, regions = len(q), routes.shape[1] * routes.shape[2]
    if max(images, regions) > MOST_PROGRAMS:
        return [f'the Triton kernel takes up to {MOST_PROGRAMS} images and regions; got {images} and {regions}']
    from mmattn.ops.kernels import routing as kernels
    weighted = route_weights is not None
    reason = kernels.trial(q.device, q.dtype, *dims, weighted, key_mask is not None,
                           kernels.blocks_of(q, k, v, routes, num_heads, weighted))
    return [reason] if reason else []


def _gathered(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, num_heads: int, scale: float,
              route_weights: Tensor | None, key_mask: Tensor | None, *, gathered: int) -> Tensor:
    """Keys and values are read out of their maps by the index of their region, for a few query regions at a time, and
    read again in the backward pass: nothing of the size regions x regions x M ever exists."""
    run = _traceable if is_traced() else _RoutedAttention.apply
    return run(q, k, v, route_weights, key_mask, routes, num_heads, scale, gathered)


IMPLEMENTATIONS = Implementations('routed_attention', 'MMATTN_ROUTED_ATTENTION', {
    'triton': Implementation(_triton, _triton_refusals, kernel_reservations),
    # keys and values gathered at once
    'gathered': Implementation(_gathered, budgets={'gathered': Budget(cpu=2 ** 21, share=1 / 64)}),
    'reference': Implementation(reference.routed_attention, reservations=for_comparison),
})


def _traceable(q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, mask: Tensor | None, routes: Tensor,
               num_heads: int, scale: float, budget: int) -> Tensor:
    """The same without what cannot be traced: a backward pass of its own, writing into views, and for a map of any
    size, a number of blocks that depends on it."""
    blocks = _blocks(q, k, v, weights, mask, routes, None if are_symbols(q.shape) else budget)
    out = torch.cat([block.attend(num_heads, scale) for block in blocks])
    gy, gx = routes.shape[1:3]
    return rearrange(out, '(b gy gx) y x c -> b (gy y) (gx x) c', gy=gy, gx=gx)


class _RoutedAttention(torch.autograd.Function):
    """Keeps the inputs only."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, mask: Tensor | None, routes: Tensor,
                num_heads: int, scale: float, budget: int) -> Tensor:
        ctx.save_for_backward(q, k, v, weights, mask, routes)
        ctx.heads_and_scale = num_heads, scale
        ctx.budget = budget
        out = v.new_empty(*q.shape[:3], v.shape[3])
        for block in _blocks(q, k, v, weights, mask, routes, budget):
            region_view(out, routes.shape[1:3])[block.index] = block.attend(num_heads, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
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
        for block in _blocks(q, k, v, weights, mask, routes, ctx.budget):
            inputs = [t.requires_grad_() for t in (block.q, block.k, block.v, block.weights) if t is not None]
            with torch.enable_grad():
                out = block.attend(*ctx.heads_and_scale)
            grads = torch.autograd.grad(out, inputs, grad_out[block.index])
            region_view(grad_q, grid)[block.index] = grads[0]
            for grad, part in zip((grad_k, grad_v), grads[1:3]):
                grad.index_add_(0, flat[block.index].flatten(), part.flatten(0, 1).to(grad.dtype))
            if grad_weights is not None:
                grad_weights[block.index] = grads[3]
        grad_k, grad_v = (rearrange(t.to(k.dtype), '(b gy gx) y x c -> b (gy y) (gx x) c', gy=grid[0], gx=grid[1])
                          for t in (grad_k, grad_v))
        return grad_q, grad_k, grad_v, grad_weights, None, None, None, None, None


@dataclass
class _Block:
    """A few query regions, r of them."""
    index: tuple[Tensor, ...]       # into (B, Gy, Gx)
    q: Tensor                       # (r, y, x, C)
    k: Tensor                       # (r, k, y, x, C) of their routes
    v: Tensor                       # (r, k, y, x, C')
    weights: Tensor | None          # (r, k)
    mask: Tensor | None             # (r, k, y, x, 1)

    def attend(self, num_heads: int, scale: float) -> Tensor:
        """(r, y, x, C')"""
        k, v = self.k, self.v
        if self.weights is not None:
            factor = self.weights[..., None, None, None]
            k, v = (k * factor).to(k.dtype), (v * factor).to(v.dtype)
        mask = None if self.mask is None else self.mask.flatten(1)[:, None, None]
        q = rearrange(self.q, 'r y x (h d) -> r h (y x) d', h=num_heads)
        k, v = (rearrange(t, 'r k y x (h d) -> r h (k y x) d', h=num_heads) for t in (k, v))
        return rearrange(attention(q, k, v, mask, scale=scale), 'r h (y x) d -> r y x (h d)', y=self.q.shape[1])


def _blocks(q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, mask: Tensor | None, routes: Tensor,
            budget: int | None = None) -> Iterator[_Block]:
    """The query regions, as many at a time as gather `budget` numbers of keys and values; None for all."""
    batch, *grid, count = routes.shape
    q, k, v = (region_view(t, grid) for t in (q, k, v))
    if mask is not None:
        mask = region_view(mask.expand(batch, -1, -1)[..., None], grid)
    every = torch.cartesian_prod(*(torch.arange(n, device=routes.device) for n in routes.shape[:3])).unbind(-1)
    step = len(every[0])
    if budget is not None:
        step = max(1, budget // (count * (k.shape[3:].numel() + v.shape[3:].numel())))
    for index in zip(*(t.split(step) for t in every)):
        chosen = routes[index]
        at = index[0][:, None], chosen // grid[1], chosen % grid[1]
        yield _Block(index, q[index], k[at], v[at], None if weights is None else weights[index],
                     None if mask is None else mask[at])
