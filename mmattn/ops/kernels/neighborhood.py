"""Neighbourhood attention in fused kernels, exact, without ever holding logits or bias:

    s = c (q . k) + T[k - q]     p = softmax(s) over the window of q     out = sum p v

c: 1 / sqrt(d). T: the table of the head, read at the displacement of the key from the query. Windows are K x K pixels,
those that start beyond a border are moved inside, and no window is larger than the map.

A program takes a tile of queries of an image and head and goes through the strip of keys that covers their windows, row
by row, a block of keys at a time; or a tile of keys, and goes through the strip of queries whose windows reach it. The
backward pass computes the logits again: ds = p (do . v - delta), where delta = do . out.

The gradient of the table has a kernel of its own, in which a run of queries of one row and a few rows of keys above or
below it move down the map. Their displacements stay, so what they give is summed up query by query and key by key, and
only in the end along the diagonals of equal displacement. No sum depends on the order in which programs run.

Shapes: B batch, h heads, H x W pixels, d channels of a head.
"""
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmattn.ops import neighborhood
from mmattn.ops.fused import failure
from mmattn.ops.kernels.common import LOG2E, TO_BASE_2, block_of, dot, index_type, launch, precision


class Tile(NamedTuple):
    """What a program has at a time: rows and columns of a tile of queries or keys, what it holds them against; and its
    warps."""
    rows: int
    columns: int
    keys: int
    warps: int


# The largest that keep to the registers of a GPU, by bytes of a number and BLOCK_D.
TILES = {
    (2, 16): Tile(4, 8, 16, 1), (2, 32): Tile(4, 8, 16, 1), (2, 64): Tile(4, 8, 16, 2), (2, 128): Tile(4, 8, 16, 2),
    (4, 16): Tile(4, 8, 16, 2), (4, 32): Tile(4, 8, 16, 2), (4, 64): Tile(4, 8, 16, 4), (4, 128): Tile(4, 4, 16, 4),
}
LARGEST = 101               # side of a window, see `_pixels_of_strip`
# Maps and windows come in any size: no kernel of its own for sizes that are 1 or divide by 16.
SIZES = ['H', 'W', 'HEADS', 'KERNEL']


@triton.jit
def _first_key(i, side, KERNEL):
    """Of query i along a side."""
    return tl.minimum(tl.maximum(i - KERNEL // 2, 0), tl.maximum(side - KERNEL, 0))


@triton.jit
def _keys_of(first, side, KERNEL, TILE: tl.constexpr):
    """First and number of the keys that a tile of queries sees along a side."""
    start = _first_key(first, side, KERNEL)
    last = tl.minimum(first + TILE, side) - 1
    return start, _first_key(last, side, KERNEL) + tl.minimum(KERNEL, side) - start


@triton.jit
def _queries_of(first, side, KERNEL, TILE: tl.constexpr):
    """First and number of the queries that see a tile of keys along a side. The first and last KERNEL keys are seen
    from the border itself."""
    start = tl.where(first < KERNEL, 0, first - KERNEL // 2)
    last = tl.minimum(first + TILE, side) - 1
    return start, tl.where(last >= side - KERNEL, side, last + KERNEL // 2 + 1) - start


@triton.jit
def _program(H, W, HEADS, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    """Image, head and first pixel of the tile of a program. Heads run side by side: their channels lie together."""
    number = tl.program_id(0)
    head = number % HEADS
    tile = number // HEADS
    across = tl.cdiv(W, TILE_X)
    down = tl.cdiv(H, TILE_Y)
    image = tile // across // down
    return image.to(tl.int64), head.to(tl.int64), tile // across % down * TILE_Y, tile % across * TILE_X


@triton.jit
def _pixels_of_tile(top, left, H, W, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    """y, x and whether there is such a pixel; if not, y and x are of one that there is."""
    n = tl.arange(0, TILE_Y * TILE_X)
    y = top + n // TILE_X
    x = left + n % TILE_X
    return tl.minimum(y, H - 1), tl.minimum(x, W - 1), (y < H) & (x < W)


@triton.jit
def _pixels_of_strip(n, top, left, columns):
    """y, x of the pixels number n (N,) of a strip. The division is exact while n columns < 2^22."""
    row = n * (4194304 // columns + 1) >> 22
    return top + row, left + n - row * columns


@triton.jit
def _places(y, x, real, d, step_y, step_x, step_d, DIM: tl.constexpr, BLOCK_D: tl.constexpr, INDEX: tl.constexpr):
    """Offsets (N, BLOCK_D) of the channels d and following of pixels (N,), and which of them there are."""
    d = (d + tl.arange(0, BLOCK_D)).to(INDEX)
    offsets = (y.to(INDEX) * step_y + x.to(INDEX) * step_x)[:, None] + d[None, :] * step_d
    return offsets, real[:, None] if DIM % BLOCK_D == 0 else real[:, None] & (d < DIM)[None, :]


@triton.jit
def _read(X, y, x, real, d, step_y, step_x, step_d, DIM: tl.constexpr, BLOCK_D: tl.constexpr, INDEX: tl.constexpr):
    """Channels d and following of pixels (N,), zero where there are none: (N, BLOCK_D)."""
    offsets, there = _places(y, x, real, d, step_y, step_x, step_d, DIM, BLOCK_D, INDEX)
    return tl.load(X + offsets, mask=there, other=0.0)


@triton.jit
def _write(X, values, y, x, real, step_y, step_x, step_d, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
           INDEX: tl.constexpr):
    offsets, there = _places(y, x, real, 0, step_y, step_x, step_d, DIM, BLOCK_D, INDEX)
    tl.store(X + offsets, values.to(X.dtype.element_ty), mask=there)


@triton.jit
def _among(i, first, count):
    """Which of i (N,) are among the `count` from `first` on (M,): (M, N)."""
    return (i[None, :] >= first[:, None]) & (i[None, :] < (first + count)[:, None])


@triton.jit(do_not_specialize=SIZES)
def _forward(OUT, LSE, ob, oh, oy, ox, od, Q, K, V, TABLE, H, W, HEADS, KERNEL, scale,
             qb, qh, qy, qx, qd, kb, kh, ky, kx, kd, vb, vh, vy, vx, vd, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
             TILE_Y: tl.constexpr, TILE_X: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
             INDEX: tl.constexpr):
    """out of a tile of queries; lse (B, h, H, W) = log2 sum exp s."""
    image, head, top, left = _program(H, W, HEADS, TILE_Y, TILE_X)
    K += image * kb + head * kh
    V += image * vb + head * vh
    side = 2 * KERNEL - 1
    TABLE += head * side * side + KERNEL * side - KERNEL            # no displacement
    y, x, real = _pixels_of_tile(top, left, H, W, TILE_Y, TILE_X)
    q = _read(Q + image * qb + head * qh, y, x, real, 0, qy, qx, qd, DIM, BLOCK_D, INDEX)
    y_first, y_count = _keys_of(y, H, KERNEL, 1)
    x_first, x_count = _keys_of(x, W, KERNEL, 1)
    top_k, rows = _keys_of(top, H, KERNEL, TILE_Y)
    left_k, columns = _keys_of(left, W, KERNEL, TILE_X)
    highest = tl.full([TILE_Y * TILE_X], -1e30, tl.float32)     # finite: all keys of a block may be outside a window
    total = tl.zeros([TILE_Y * TILE_X], tl.float32)
    out = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for start in range(0, rows * columns, BLOCK):
        n = start + tl.arange(0, BLOCK)
        y_k, x_k = _pixels_of_strip(n, top_k, left_k, columns)
        k = _read(K, y_k, x_k, n < rows * columns, 0, ky, kx, kd, DIM, BLOCK_D, INDEX)
        v = _read(V, y_k, x_k, n < rows * columns, 0, vy, vx, vd, DIM, BLOCK_D, INDEX)
        displacement = (y_k * side + x_k)[None, :] - (y * side + x)[:, None]
        inside = _among(y_k, y_first, y_count) & _among(x_k, x_first, x_count)
        bias = tl.load(TABLE + displacement, mask=inside, other=float('-inf'))
        s = dot(q, tl.trans(k), None, PRECISION) * (scale * TO_BASE_2) + bias
        higher = tl.maximum(highest, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(p, 1)
        out = dot(p.to(v.dtype), v, out * shrink[:, None], PRECISION)
        highest = higher
    _write(OUT + image * ob + head * oh, out / total[:, None], y, x, real, oy, ox, od, DIM, BLOCK_D, INDEX)
    tl.store(LSE + (image * HEADS + head) * H * W + y * W + x, highest + tl.log2(total), mask=real)


@triton.jit(do_not_specialize=SIZES)
def _backward_queries(GRAD_Q, OUT, DELTA, LSE, GRAD, db, dh, dy, dx, dd, ob, oh, oy, ox, od, gb, gh, gy, gx, gd,
                      Q, K, V, TABLE, H, W, HEADS, KERNEL, scale,
                      qb, qh, qy, qx, qd, kb, kh, ky, kx, kd, vb, vh, vy, vx, vd, DIM: tl.constexpr,
                      BLOCK_D: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, BLOCK: tl.constexpr,
                      PRECISION: tl.constexpr, INDEX: tl.constexpr):
    """dq = c sum ds k of a tile of queries, and their delta (B, h, H, W)."""
    image, head, top, left = _program(H, W, HEADS, TILE_Y, TILE_X)
    K += image * kb + head * kh
    V += image * vb + head * vh
    side = 2 * KERNEL - 1
    TABLE += head * side * side + KERNEL * side - KERNEL            # no displacement
    y, x, real = _pixels_of_tile(top, left, H, W, TILE_Y, TILE_X)
    q = _read(Q + image * qb + head * qh, y, x, real, 0, qy, qx, qd, DIM, BLOCK_D, INDEX)
    grad = _read(GRAD + image * gb + head * gh, y, x, real, 0, gy, gx, gd, DIM, BLOCK_D, INDEX)
    out = _read(OUT + image * ob + head * oh, y, x, real, 0, oy, ox, od, DIM, BLOCK_D, INDEX)
    number = (image * HEADS + head) * H * W + y * W + x
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(DELTA + number, delta, mask=real)
    lse = tl.load(LSE + number)
    y_first, y_count = _keys_of(y, H, KERNEL, 1)
    x_first, x_count = _keys_of(x, W, KERNEL, 1)
    top_k, rows = _keys_of(top, H, KERNEL, TILE_Y)
    left_k, columns = _keys_of(left, W, KERNEL, TILE_X)
    grad_q = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for start in range(0, rows * columns, BLOCK):
        n = start + tl.arange(0, BLOCK)
        y_k, x_k = _pixels_of_strip(n, top_k, left_k, columns)
        k = _read(K, y_k, x_k, n < rows * columns, 0, ky, kx, kd, DIM, BLOCK_D, INDEX)
        v = _read(V, y_k, x_k, n < rows * columns, 0, vy, vx, vd, DIM, BLOCK_D, INDEX)
        displacement = (y_k * side + x_k)[None, :] - (y * side + x)[:, None]
        inside = _among(y_k, y_first, y_count) & _among(x_k, x_first, x_count)
        bias = tl.load(TABLE + displacement, mask=inside, other=float('-inf'))
        p = tl.exp2(dot(q, tl.trans(k), None, PRECISION) * (scale * TO_BASE_2) + bias - lse[:, None])
        ds = p * (dot(grad, tl.trans(v), None, PRECISION) - delta[:, None])
        grad_q = dot(ds.to(k.dtype), k, grad_q, PRECISION)
    _write(GRAD_Q + image * db + head * dh, grad_q * scale, y, x, real, dy, dx, dd, DIM, BLOCK_D, INDEX)


@triton.jit(do_not_specialize=SIZES)
def _backward_keys(GRAD_K, GRAD_V, DELTA, LSE, GRAD, db, dh, dy, dx, dd, eb, eh, ey, ex, ed, gb, gh, gy, gx, gd,
                   Q, K, V, TABLE, H, W, HEADS, KERNEL, scale,
                   qb, qh, qy, qx, qd, kb, kh, ky, kx, kd, vb, vh, vy, vx, vd, DIM: tl.constexpr,
                   BLOCK_D: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, BLOCK: tl.constexpr,
                   PRECISION: tl.constexpr, INDEX: tl.constexpr):
    """dk = c sum ds q and dv = sum p do of a tile of keys, the rows of all matrices here."""
    image, head, top, left = _program(H, W, HEADS, TILE_Y, TILE_X)
    Q += image * qb + head * qh
    GRAD += image * gb + head * gh
    DELTA += (image * HEADS + head) * H * W
    LSE += (image * HEADS + head) * H * W
    side = 2 * KERNEL - 1
    TABLE += head * side * side + KERNEL * side - KERNEL            # no displacement
    y, x, real = _pixels_of_tile(top, left, H, W, TILE_Y, TILE_X)
    k = _read(K + image * kb + head * kh, y, x, real, 0, ky, kx, kd, DIM, BLOCK_D, INDEX)
    v = _read(V + image * vb + head * vh, y, x, real, 0, vy, vx, vd, DIM, BLOCK_D, INDEX)
    y_first, y_count = _queries_of(y, H, KERNEL, 1)
    x_first, x_count = _queries_of(x, W, KERNEL, 1)
    top_q, rows = _queries_of(top, H, KERNEL, TILE_Y)
    left_q, columns = _queries_of(left, W, KERNEL, TILE_X)
    grad_k = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    grad_v = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for start in range(0, rows * columns, BLOCK):
        n = start + tl.arange(0, BLOCK)
        there = n < rows * columns
        y_q, x_q = _pixels_of_strip(n, top_q, left_q, columns)
        q = _read(Q, y_q, x_q, there, 0, qy, qx, qd, DIM, BLOCK_D, INDEX)
        grad = _read(GRAD, y_q, x_q, there, 0, gy, gx, gd, DIM, BLOCK_D, INDEX)
        lse = tl.load(LSE + y_q * W + x_q, mask=there, other=0.0)
        delta = tl.load(DELTA + y_q * W + x_q, mask=there, other=0.0)
        displacement = (y * side + x)[:, None] - (y_q * side + x_q)[None, :]
        inside = _among(y_q, y_first, y_count) & _among(x_q, x_first, x_count)
        bias = tl.load(TABLE + displacement, mask=inside, other=float('-inf'))
        p = tl.exp2(dot(k, tl.trans(q), None, PRECISION) * (scale * TO_BASE_2) + bias - lse[None, :])
        grad_v = dot(p.to(grad.dtype), grad, grad_v, PRECISION)
        ds = p * (dot(v, tl.trans(grad), None, PRECISION) - delta[None, :])
        grad_k = dot(ds.to(q.dtype), q, grad_k, PRECISION)
    _write(GRAD_K + image * db + head * dh, grad_k * scale, y, x, real, dy, dx, dd, DIM, BLOCK_D, INDEX)
    _write(GRAD_V + image * eb + head * eh, grad_v, y, x, real, ey, ex, ed, DIM, BLOCK_D, INDEX)


@triton.jit(do_not_specialize=[*SIZES, 'LOWEST'])
def _backward_table(PARTS, LOWEST, DELTA, LSE, GRAD, gb, gh, gy, gx, gd, Q, K, V, TABLE, H, W, HEADS, KERNEL, scale,
                    qb, qh, qy, qx, qd, kb, kh, ky, kx, kd, vb, vh, vy, vx, vd, DIM: tl.constexpr,
                    BLOCK_D: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, ROWS: tl.constexpr,
                    COLUMNS: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr):
    """The sum of ds over a tile of queries, for each displacement: a row of queries moves down the tile, and with it a
    group of ROWS rows of COLUMNS keys. The first group starts LOWEST rows below the queries; there are as many as hold
    all displacements.

    parts (B tiles, h, groups ROWS, 2 K - 1)
    """
    image, head, top, left = _program(H, W, HEADS, TILE_Y, TILE_X)
    Q += image * qb + head * qh
    K += image * kb + head * kh
    V += image * vb + head * vh
    GRAD += image * gb + head * gh
    DELTA += (image * HEADS + head) * H * W
    LSE += (image * HEADS + head) * H * W
    side = 2 * KERNEL - 1
    TABLE += head * side * side + KERNEL * side - KERNEL            # no displacement
    m = tl.arange(0, TILE_X)
    real = left + m < W
    x = tl.minimum(left + m, W - 1)
    x_first, x_count = _keys_of(x, W, KERNEL, 1)
    n = tl.arange(0, ROWS * COLUMNS)
    first = LOWEST + tl.program_id(1) * ROWS
    below = first + n // COLUMNS
    x_k = _first_key(left, W, KERNEL) + n % COLUMNS
    right = x_k[None, :] - x[:, None]
    inside = _among(x_k, x_first, x_count) & ((below > -KERNEL) & (below < KERNEL))[None, :]
    bias = tl.load(TABLE + below[None, :] * side + right, mask=inside, other=float('-inf'))
    grad_bias = tl.zeros([TILE_X, ROWS * COLUMNS], tl.float32)
    # Keys more than half a window away are seen at a border only.
    start = tl.where(first + ROWS <= -(KERNEL // 2), tl.maximum(top, H - KERNEL - first - ROWS + 1), top)
    stop = tl.minimum(top + TILE_Y, tl.where(first > KERNEL // 2, tl.minimum(H, KERNEL - first), H))
    for row in range(start, stop):
        y = m * 0 + row
        y_k = row + below
        y_first, y_count = _keys_of(row, H, KERNEL, 1)
        there = (y_k >= y_first) & (y_k < y_first + y_count) & (x_k < W)
        s = tl.zeros([TILE_X, ROWS * COLUMNS], tl.float32)
        dp = tl.zeros([TILE_X, ROWS * COLUMNS], tl.float32)
        for d in range(0, DIM, BLOCK_D):
            q = _read(Q, y, x, real, d, qy, qx, qd, DIM, BLOCK_D, INDEX)
            grad = _read(GRAD, y, x, real, d, gy, gx, gd, DIM, BLOCK_D, INDEX)
            k = _read(K, y_k, x_k, there, d, ky, kx, kd, DIM, BLOCK_D, INDEX)
            v = _read(V, y_k, x_k, there, d, vy, vx, vd, DIM, BLOCK_D, INDEX)
            s = dot(q, tl.trans(k), s, PRECISION)
            dp = dot(grad, tl.trans(v), dp, PRECISION)
        lse = tl.load(LSE + y * W + x, mask=real, other=float('inf'))       # so that p = 0 of queries that are not real
        delta = tl.load(DELTA + y * W + x, mask=real, other=0.0)
        p = tl.exp2(s * (scale * TO_BASE_2) + bias - lse[:, None])
        grad_bias += tl.where(there[None, :], p * (dp - delta[:, None]), 0.0)
    number = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    PARTS += (number * ROWS + tl.arange(0, ROWS)) * side + KERNEL - 1
    for displacement in range(1 - KERNEL, KERNEL):
        by_key = tl.sum(tl.where(right == displacement, grad_bias, 0.0), 0)
        tl.store(PARTS + displacement, tl.sum(tl.reshape(by_key, (ROWS, COLUMNS)), 1))


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int) -> Tensor:
    """See `mmattn.ops.neighborhood.neighborhood_attention`; kernel_size is `LARGEST` at most."""
    out: Tensor = _NeighborhoodAttention.apply(q, k, v, table, kernel_size)
    return out


class _NeighborhoodAttention(torch.autograd.Function):
    """Keeps the inputs, the output, and the log-sum-exp of the logits of each query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int) -> Tensor:
        problem = _Problem(q, k, v, table, kernel_size)
        batch, heads, height, width, dims = q.shape
        # As layers go on: the heads of a pixel side by side.
        out = torch.empty(batch, height, width, heads, dims, dtype=q.dtype, device=q.device).permute(0, 3, 1, 2, 4)
        lse = torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)
        problem.run(_forward, out, lse, *out.stride())
        ctx.save_for_backward(q, k, v, table, out, lse)
        ctx.kernel_size = kernel_size
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, out, lse = ctx.saved_tensors
        problem = _Problem(q, k, v, table, ctx.kernel_size)
        grad_q, grad_k, grad_v, delta = (torch.empty_like(t) for t in (q, k, v, lse))
        problem.run(_backward_queries, grad_q, out, delta, lse, grad, *grad_q.stride(), *out.stride(), *grad.stride())
        problem.run(_backward_keys, grad_k, grad_v, delta, lse, grad, *grad_k.stride(), *grad_v.stride(),
                    *grad.stride())
        return grad_q, grad_k, grad_v, problem.grad_table(delta, lse, grad, *grad.stride()).to(table.dtype), None


class _Problem:
    """What the kernels share."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int) -> None:
        self.batch, self.heads, self.height, self.width, dims = q.shape
        self.kernel_size = kernel_size
        self.wide = q.dtype == torch.float32
        self.block_d = block_of(dims)
        self.arguments = (q, k, v, (table.float() * LOG2E).contiguous(), self.height, self.width, self.heads,
                          kernel_size, dims ** -0.5, *q.stride(), *k.stride(), *v.stride())
        # All registers, or the compiler keeps a few values in memory so that more programs run at a time.
        self.constants = dict(DIM=dims, BLOCK_D=self.block_d, PRECISION=precision(q.dtype), maxnreg=255, num_stages=1)

    def run(self, kernel: Any, *args: Any) -> None:
        """A program for each tile, image and head."""
        tile = TILES[self.arguments[0].itemsize, self.block_d]
        self._launch(kernel, tile[:2], 1, *args, BLOCK=tile.keys, num_warps=tile.warps)

    def grad_table(self, *args: Any) -> Tensor:
        """(h, 2 K - 1, 2 K - 1) from delta, lse, the gradient of the output and its strides."""
        tile = 16, 16
        half, side = self.kernel_size // 2, 2 * self.kernel_size - 1
        columns = triton.next_power_of_2(tile[1] + self.kernel_size - 1)
        rows = max(1, 64 // columns)
        # Inside the map, the keys of a query are in as few groups as can be. The others serve the borders.
        above = triton.cdiv(half, rows)
        groups = above + triton.cdiv(self.kernel_size + half, rows)
        lowest = -half - above * rows
        parts = torch.empty(self._programs(tile) // self.heads, self.heads, groups * rows, side, dtype=torch.float32,
                            device=self.arguments[0].device)
        self._launch(_backward_table, tile, groups, parts, lowest, *args, ROWS=rows, COLUMNS=columns,
                     BLOCK_D=min(self.block_d, 16 if self.wide else 32), num_warps=rows * columns // 32)
        first = 1 - self.kernel_size - lowest
        return parts.sum(0)[:, first:first + side]

    def _programs(self, tile: tuple[int, int]) -> int:
        """One for each tile, image and head."""
        return self.batch * triton.cdiv(self.height, tile[0]) * triton.cdiv(self.width, tile[1]) * self.heads

    def _launch(self, kernel: Any, tile: tuple[int, int], groups: int, *args: Any, **options: int) -> None:
        args = *args, *self.arguments
        index = index_type(*(t for t in args if isinstance(t, Tensor)))
        launch(kernel, (self._programs(tile), groups), args[0].device, *args, TILE_Y=tile[0], TILE_X=tile[1],
               INDEX=index, **self.constants | options)


@cache
def trial(device: torch.device, dtype: torch.dtype, dims: int, kernel_size: int) -> str | None:
    """Why the kernels must not be used for such problems; None if they come out right."""
    generator = torch.Generator().manual_seed(0)
    shapes = dict.fromkeys('qkv', (1, 2, 6, 18, dims))
    inputs = {name: torch.randn(shape, generator=generator).to(device, dtype) for name, shape in shapes.items()}
    inputs['table'] = torch.randn(2, 2 * kernel_size - 1, 2 * kernel_size - 1, generator=generator).to(device)
    return failure(partial(neighborhood_attention, kernel_size=kernel_size),
                   partial(neighborhood.neighborhood_attention, kernel_size=kernel_size, backend='tiles'), inputs)
