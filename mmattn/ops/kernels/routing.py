"""Bi-level routing attention that reads keys and values where they lie, by the number of their region.

    s = c w (q . k)     p = softmax(s)     out = sum p w v        c: scale, w: weight of the route of a key, or 1

Shapes: B batch, R regions, (QH, QW) pixels of a query region, (KH, KW) pixels of a key region, k routes of a region, h
heads. The tokens of a region are its pixels, row by row; the places of a region are the keys of its routes, one route
after another. A program takes a block of tokens of one region, image and head: queries, and goes through the places of
their region, or keys, and goes through the queries of all regions that chose them.
"""
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmattn.ops import reference
from mmattn.ops.fused import failure
from mmattn.ops.kernels.common import TO_BASE_2, block_of, dot, launch, precision
from mmattn.ops.routing import region_view

# Regions come in any size: no kernel of its own for sizes that are 1 or divide by 16.
SIZES = ['heads', 'regions', 'columns', 'routes', 'QH', 'QW', 'KH', 'KW']


@triton.jit
def _program(heads):
    """Image, head, region and block of a program. Heads run side by side: they read the same pixels."""
    number = tl.program_id(0)
    return tl.program_id(2).to(tl.int64), (number % heads).to(tl.int64), tl.program_id(1), number // heads


@triton.jit
def _pixel(region, token, columns, HEIGHT, WIDTH, stride_y, stride_x):
    """Where a token lies in a map of which `columns` regions of HEIGHT x WIDTH pixels make a row."""
    corner = (region // columns * HEIGHT).to(tl.int64) * stride_y + (region % columns * WIDTH).to(tl.int64) * stride_x
    return corner + ((token // WIDTH).to(tl.int64) * stride_y + (token % WIDTH).to(tl.int64) * stride_x)


@triton.jit
def _channels(pixel, real, stride, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets (n, BLOCK) of the channels of pixels (n), and which of them there are."""
    d = tl.arange(0, BLOCK)
    offsets = pixel[:, None] + d.to(tl.int64)[None, :] * stride
    return offsets, real[:, None] if DIM == BLOCK else real[:, None] & (d < DIM)[None, :]


@triton.jit
def _read(X, pixel, real, stride, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """(n, BLOCK) channels of pixels (n), zero where there are none."""
    offsets, inside = _channels(pixel, real, stride, DIM, BLOCK)
    return tl.load(X + offsets, mask=inside, other=0.0)


@triton.jit
def _write(X, x, image, head, region, token, real, heads, regions, columns, HEIGHT, WIDTH, DIM: tl.constexpr,
           BLOCK: tl.constexpr):
    """Tokens of a region into a contiguous map."""
    channels = heads * DIM
    pixel = _pixel(region, token, columns, HEIGHT, WIDTH, columns * WIDTH * channels, channels)
    offsets, inside = _channels(pixel, real, 1, DIM, BLOCK)
    X += image * regions * HEIGHT * WIDTH * channels + head * DIM
    tl.store(X + offsets, x.to(X.dtype.element_ty), mask=inside)


@triton.jit
def _span(tokens, BLOCK: tl.constexpr, PACKED: tl.constexpr):
    """Places of a route of so many tokens: as many, or whole blocks, each of one route then."""
    return tokens if PACKED else tl.cdiv(tokens, BLOCK) * BLOCK


@triton.jit
def _places(start, routes, tokens, BLOCK: tl.constexpr, PACKED: tl.constexpr):
    """Of BLOCK places from `start`: the number of their route, or of the only one; their token; which there are."""
    span = _span(tokens, BLOCK, PACKED)
    place = start + tl.arange(0, BLOCK)
    route = (place if PACKED else start) // span
    token = place - route * span
    return route, token, place < routes * tokens if PACKED else token < tokens


@triton.jit
def _of_route(X, route, real, PACKED: tl.constexpr):
    """A number of the route of each place, or of the only one."""
    return tl.load(X + route, mask=real, other=0) if PACKED else tl.load(X + route)


@triton.jit
def _weight(WEIGHTS, route):
    """Of a route. Those that have one are not packed."""
    return 1.0 if WEIGHTS is None else tl.load(WEIGHTS + route).to(tl.float32)


@triton.jit
def _counts(MASK, key, real):
    """Which keys take part."""
    return real if MASK is None else tl.load(MASK + key, mask=real, other=0) != 0


@triton.jit(do_not_specialize=SIZES)
def _forward(OUT, LSE, ROUTES, Q, K, V, WEIGHTS, MASK, scale, heads, regions, columns, routes, QH, QW, KH, KW,
             qb, qy, qx, qc, kb, ky, kx, kc, vb, vy, vx, vc, mask_stride,
             DIM: tl.constexpr, DIM_V: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
             TOKENS: tl.constexpr, PLACES: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr):
    """out of a block of queries; lse (B, h, R, QH QW) = log2 sum exp of their logits."""
    image, head, region, block = _program(heads)
    token = block * TOKENS + tl.arange(0, TOKENS)
    real = token < QH * QW
    q = _read(Q + image * qb + head * DIM * qc, _pixel(region, token, columns, QH, QW, qy, qx), real, qc, DIM, BLOCK_D)
    K += image * kb + head * DIM * kc
    V += image * vb + head * DIM_V * vc
    first = (image * regions + region) * routes
    top = tl.full([TOKENS], -1e30, tl.float32)          # finite: all keys of the first block may be masked
    total = tl.zeros([TOKENS], tl.float32)
    out = tl.zeros([TOKENS, BLOCK_V], tl.float32)
    for start in range(0, routes * _span(KH * KW, PLACES, PACKED), PLACES):
        route, token_k, real_k = _places(start, routes, KH * KW, PLACES, PACKED)
        chosen = _of_route(ROUTES, first + route, real_k, PACKED).to(tl.int32)
        weight = _weight(WEIGHTS, first + route)
        counts = _counts(MASK, image * mask_stride + chosen * (KH * KW) + token_k, real_k)
        k = _read(K, _pixel(chosen, token_k, columns, KH, KW, ky, kx), real_k, kc, DIM, BLOCK_D)
        v = _read(V, _pixel(chosen, token_k, columns, KH, KW, vy, vx), real_k, vc, DIM_V, BLOCK_V)
        s = dot(q, tl.trans(k), None, PRECISION) * (scale * TO_BASE_2 * weight)
        s = tl.where(counts[None, :], s, float('-inf'))
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(p, 1)
        out = dot((p * weight).to(v.dtype), v, out * shrink[:, None], PRECISION)
        top = higher
    _write(OUT, out / total[:, None], image, head, region, token, real, heads, regions, columns, QH, QW, DIM_V, BLOCK_V)
    rows = ((image * heads + head) * regions + region) * QH * QW
    tl.store(LSE + rows + token, top + tl.log2(total), mask=real)


@triton.jit(do_not_specialize=SIZES)
def _backward_queries(GRAD_Q, GRAD_W, DELTA, OUT, LSE, GRAD, gb, gy, gx, gc,
                      ROUTES, Q, K, V, WEIGHTS, MASK, scale, heads, regions, columns, routes, QH, QW, KH, KW,
                      qb, qy, qx, qc, kb, ky, kx, kc, vb, vy, vx, vc, mask_stride,
                      DIM: tl.constexpr, DIM_V: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
                      TOKENS: tl.constexpr, PLACES: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr):
    """Gradient of a block of queries, and what it adds to that of the weights:

        dq = c sum w ds k       dw = sum c ds (q . k) + p (do . v)      ds = p (w (do . v) - delta)

    delta (B, h, R, QH QW) = do . out. dw (B, R, k, n): a number for each block of places of a route, head, and block.
    """
    image, head, region, block = _program(heads)
    token = block * TOKENS + tl.arange(0, TOKENS)
    real = token < QH * QW
    q = _read(Q + image * qb + head * DIM * qc, _pixel(region, token, columns, QH, QW, qy, qx), real, qc, DIM, BLOCK_D)
    grad = _read(GRAD + image * gb + head * DIM_V * gc, _pixel(region, token, columns, QH, QW, gy, gx), real, gc, DIM_V,
                 BLOCK_V)
    channels = heads * DIM_V
    out = _read(OUT + image * regions * QH * QW * channels + head * DIM_V,
                _pixel(region, token, columns, QH, QW, columns * QW * channels, channels), real, 1, DIM_V, BLOCK_V)
    rows = ((image * heads + head) * regions + region) * QH * QW
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(DELTA + rows + token, delta, mask=real)
    lse = tl.load(LSE + rows + token, mask=real, other=0.0)
    K += image * kb + head * DIM * kc
    V += image * vb + head * DIM_V * vc
    first = (image * regions + region) * routes
    grad_q = tl.zeros([TOKENS, BLOCK_D], tl.float32)
    for start in range(0, routes * _span(KH * KW, PLACES, PACKED), PLACES):
        route, token_k, real_k = _places(start, routes, KH * KW, PLACES, PACKED)
        chosen = _of_route(ROUTES, first + route, real_k, PACKED).to(tl.int32)
        weight = _weight(WEIGHTS, first + route)
        counts = _counts(MASK, image * mask_stride + chosen * (KH * KW) + token_k, real_k)
        k = _read(K, _pixel(chosen, token_k, columns, KH, KW, ky, kx), real_k, kc, DIM, BLOCK_D)
        v = _read(V, _pixel(chosen, token_k, columns, KH, KW, vy, vx), real_k, vc, DIM_V, BLOCK_V)
        s = dot(q, tl.trans(k), None, PRECISION)
        p = tl.where(counts[None, :], tl.exp2(s * (scale * TO_BASE_2 * weight) - lse[:, None]), 0.0)
        dp = dot(grad, tl.trans(v), None, PRECISION)
        ds = p * (dp * weight - delta[:, None])
        if WEIGHTS is not None:
            part = first * tl.cdiv(KH * KW, PLACES) + start // PLACES
            tl.store(GRAD_W + (part * heads + head) * tl.cdiv(QH * QW, TOKENS) + block, tl.sum(scale * ds * s + p * dp))
        grad_q = dot((ds * weight).to(k.dtype), k, grad_q, PRECISION)
    _write(GRAD_Q, grad_q * scale, image, head, region, token, real, heads, regions, columns, QH, QW, DIM, BLOCK_D)


@triton.jit(do_not_specialize=SIZES)
def _backward_keys(GRAD_K, GRAD_V, ORDER, STARTS, DELTA, LSE, GRAD, gb, gy, gx, gc,
                   Q, K, V, WEIGHTS, MASK, scale, heads, regions, columns, routes, QH, QW, KH, KW,
                   qb, qy, qx, qc, kb, ky, kx, kc, vb, vy, vx, vc, mask_stride,
                   DIM: tl.constexpr, DIM_V: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
                   TOKENS: tl.constexpr, PLACES: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr):
    """Gradients of a block of keys and values, by the queries of the regions that chose them:

        dk = c sum w ds q       dv = sum p w do

    order (B, R k): the routes by the region that they lead to. starts (B, R + 1): the first of each region.
    """
    image, head, region, block = _program(heads)
    token = block * TOKENS + tl.arange(0, TOKENS)
    real = token < KH * KW
    k = _read(K + image * kb + head * DIM * kc, _pixel(region, token, columns, KH, KW, ky, kx), real, kc, DIM, BLOCK_D)
    v = _read(V + image * vb + head * DIM_V * vc, _pixel(region, token, columns, KH, KW, vy, vx), real, vc, DIM_V,
              BLOCK_V)
    Q += image * qb + head * DIM * qc
    GRAD += image * gb + head * DIM_V * gc
    LSE += (image * heads + head) * regions * QH * QW
    DELTA += (image * heads + head) * regions * QH * QW
    first = tl.load(STARTS + image * (regions + 1) + region)
    incoming = (tl.load(STARTS + image * (regions + 1) + region + 1) - first).to(tl.int32)
    first += image * regions * routes
    grad_k = tl.zeros([TOKENS, BLOCK_D], tl.float32)
    grad_v = tl.zeros([TOKENS, BLOCK_V], tl.float32)
    for start in range(0, incoming * _span(QH * QW, PLACES, PACKED), PLACES):
        number, token_q, real_q = _places(start, incoming, QH * QW, PLACES, PACKED)
        route = _of_route(ORDER, first + number, real_q, PACKED)
        region_q = (route // routes).to(tl.int32)
        weight = _weight(WEIGHTS, image * regions * routes + route)
        q = _read(Q, _pixel(region_q, token_q, columns, QH, QW, qy, qx), real_q, qc, DIM, BLOCK_D)
        grad = _read(GRAD, _pixel(region_q, token_q, columns, QH, QW, gy, gx), real_q, gc, DIM_V, BLOCK_V)
        row = region_q.to(tl.int64) * (QH * QW) + token_q
        lse = tl.load(LSE + row, mask=real_q, other=0.0)
        delta = tl.load(DELTA + row, mask=real_q, other=0.0)
        p = tl.exp2(dot(k, tl.trans(q), None, PRECISION) * (scale * TO_BASE_2 * weight) - lse[None, :])
        grad_v = dot((p * weight).to(grad.dtype), grad, grad_v, PRECISION)
        ds = p * (dot(v, tl.trans(grad), None, PRECISION) * weight - delta[None, :])
        grad_k = dot((ds * weight).to(q.dtype), q, grad_k, PRECISION)
    counts = _counts(MASK, image * mask_stride + region * (KH * KW) + token, real)[:, None]
    _write(GRAD_K, tl.where(counts, grad_k * scale, 0.0), image, head, region, token, real, heads, regions, columns, KH,
           KW, DIM, BLOCK_D)
    _write(GRAD_V, tl.where(counts, grad_v, 0.0), image, head, region, token, real, heads, regions, columns, KH, KW,
           DIM_V, BLOCK_V)


class Blocks(NamedTuple):
    """How a program goes through its work."""
    tokens: int         # that it takes
    places: int         # that it holds them against at a time
    warps: int
    packed: bool = False

    @classmethod
    def of(cls, dtype: torch.dtype, dims: int, tokens: int, run: int, count: int, weighted: bool) -> 'Blocks':
        """For heads of `dims` channels, and regions of so many tokens, each of them held against about `count` runs of
        others; those of routes that have a weight are not packed."""
        largest = TILES[dtype.itemsize, dims]
        packed = 4 * run < 3 * largest.places and not weighted      # places left empty cost less than packing
        block = min(largest.tokens, block_of(tokens))
        places = min(largest.places, block_of(count * run if packed else run))
        return cls(block, places, max(2, largest.warps * block // largest.tokens), packed)


# The largest that keep to the registers of a GPU, by bytes of a number and BLOCK_D.
TILES = {
    (2, 16): Blocks(64, 64, 4), (2, 32): Blocks(64, 64, 4), (2, 64): Blocks(64, 32, 4), (2, 128): Blocks(64, 32, 8),
    (4, 16): Blocks(64, 16, 4), (4, 32): Blocks(64, 16, 4), (4, 64): Blocks(32, 32, 8), (4, 128): Blocks(16, 32, 8),
}


def routed_attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, num_heads: int, scale: float,
                     route_weights: Tensor | None = None, key_mask: Tensor | None = None,
                     blocks: tuple[Blocks, Blocks] | None = None) -> Tensor:
    """See `mmattn.ops.routing.routed_attention`; `blocks` are those of `blocks_of`, unless given."""
    if blocks is None:
        blocks = blocks_of(q, k, v, routes, num_heads, route_weights is not None)
    if key_mask is not None:        # (B, R KH KW), region by region
        key_mask = region_view(key_mask[..., None], routes.shape[1:3]).flatten(1).contiguous()
    return _RoutedAttention.apply(q, k, v, route_weights, key_mask, routes, num_heads, scale, blocks)


def blocks_of(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, num_heads: int,
              weighted: bool) -> tuple[Blocks, Blocks]:
    """For programs that take queries, and for those that take keys."""
    dims = block_of(max(q.shape[3], v.shape[3]) // num_heads)
    _, rows, columns, count = routes.shape
    queries, keys = (t.shape[1] * t.shape[2] // (rows * columns) for t in (q, k))
    return (Blocks.of(q.dtype, dims, queries, keys, count, weighted),
            Blocks.of(q.dtype, dims, keys, queries, count, weighted))


class _RoutedAttention(torch.autograd.Function):
    """Keeps the inputs, the output, and the log-sum-exp of the logits of each query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, mask: Tensor | None, routes: Tensor,
                heads: int, scale: float, blocks: tuple[Blocks, Blocks]) -> Tensor:
        problem = _Problem(q, k, v, weights, mask, routes, heads, scale)
        out = v.new_empty(*q.shape[:3], v.shape[3])
        lse = problem.new_rows()
        problem.run(_forward, problem.queries, blocks[0], out, lse, problem.routes)
        ctx.save_for_backward(q, k, v, weights, mask, routes, out, lse)
        ctx.options = heads, scale, blocks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, mask, routes, out, lse = ctx.saved_tensors
        heads, scale, (by_queries, by_keys) = ctx.options
        problem = _Problem(q, k, v, weights, mask, routes, heads, scale)
        delta = problem.new_rows()
        grad_q, grad_k, grad_v = (t.new_empty(t.shape) for t in (q, k, v))
        parts = None
        if weights is not None:
            parts = lse.new_empty(*weights.shape, triton.cdiv(problem.keys, by_queries.places) * heads
                                  * triton.cdiv(problem.queries, by_queries.tokens))
        problem.run(_backward_queries, problem.queries, by_queries, grad_q, parts, delta, out, lse, grad,
                    *grad.stride(), problem.routes)
        problem.run(_backward_keys, problem.keys, by_keys, grad_k, grad_v, *problem.inverse(), delta, lse, grad,
                    *grad.stride())
        grad_weights = None if parts is None else parts.sum(-1).to(weights.dtype)
        return grad_q, grad_k, grad_v, grad_weights, None, None, None, None, None


class _Problem:
    """What the kernels share."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, mask: Tensor | None, routes: Tensor,
                 heads: int, scale: float) -> None:
        self.batch, *grid, count = routes.shape
        self.heads = heads
        self.regions = grid[0] * grid[1]
        self.routes = routes.flatten(1).contiguous()        # (B, R k)
        query, key = region_view(q, grid).shape[3:5], region_view(k, grid).shape[3:5]
        self.queries, self.keys = query.numel(), key.numel()
        dims, dims_v = q.shape[3] // heads, v.shape[3] // heads
        self.arguments = (q, k, v, None if weights is None else weights.contiguous(), mask, scale, heads,
                          self.regions, grid[1], count, *query, *key, *q.stride(), *k.stride(), *v.stride(),
                          0 if mask is None or len(mask) == 1 else mask.stride(0))
        self.constants = dict(DIM=dims, DIM_V=dims_v, BLOCK_D=block_of(dims), BLOCK_V=block_of(dims_v),
                              PRECISION=precision(q.dtype))
        if q.dtype == torch.float32 or max(dims, dims_v) > 32 or weights is not None or mask is not None:
            # All registers, or the compiler keeps a number or two in memory so that more programs run at a time.
            self.constants['maxnreg'] = 255

    def run(self, kernel: Any, tokens: int, blocks: Blocks, *args: Any) -> None:
        """A program for each block of `tokens` of a region, region, image and head."""
        grid = triton.cdiv(tokens, blocks.tokens) * self.heads, self.regions, self.batch
        launch(kernel, grid, self.routes.device, *args, *self.arguments, TOKENS=blocks.tokens,
               PLACES=blocks.places, PACKED=blocks.packed, num_warps=blocks.warps, num_stages=2, **self.constants)

    def new_rows(self) -> Tensor:
        """(B, h, R, QH QW) a number for each query and head."""
        return torch.empty(self.batch, self.heads, self.regions, self.queries, dtype=torch.float32,
                           device=self.routes.device)

    def inverse(self) -> tuple[Tensor, Tensor]:
        """(B, R k) the routes by the region that they lead to, and (B, R + 1) the first of each region."""
        regions, order = self.routes.sort(stable=True)
        bounds = torch.arange(self.regions + 1, device=regions.device).repeat(self.batch, 1)
        return order, torch.searchsorted(regions, bounds)


@cache
def trial(device: torch.device, dtype: torch.dtype, dims: int, dims_v: int, weighted: bool, masked: bool,
          blocks: tuple[Blocks, Blocks]) -> str | None:
    """Why the kernels must not be used for such heads and blocks; None if they come out right."""
    generator = torch.Generator().manual_seed(0)
    heads, grid, count = 2, (1, 3), 2
    shapes = dict(q=(1, 9, 15, heads * dims), k=(1, 5, 27, heads * dims), v=(1, 5, 27, heads * dims_v))
    inputs = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    inputs['routes'] = torch.tensor([[[[1, 0], [1, 2], [2, 1]]]])
    if weighted:
        inputs['route_weights'] = torch.rand(1, *grid, count, generator=generator)
    if masked:
        inputs['key_mask'] = torch.rand(1, 5, 27, generator=generator) > 0.3
    options = dict(num_heads=heads, scale=dims ** -0.5)
    return failure(partial(routed_attention, blocks=blocks, **options), partial(reference.routed_attention, **options),
                   {name: t.to(device) for name, t in inputs.items()})
