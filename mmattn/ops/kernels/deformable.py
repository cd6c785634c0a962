"""Deformable attention in fused kernels, exact, without ever holding logits or bias:

    o_i = sum_j softmax_j(scale q_i . k_j + T(y_i - y_j, x_i - x_j)) v_j

T: the table of the head, read bilinearly. Positions are counted in its entries, a ring of zeros around it so wide that
no read leaves it. What lies further than the ring is moved on to it, where every query reads zeros.

The backward pass computes the logits again. With p the weights and s the logits, ds = p (do . v - delta), where delta =
do . o. Queries get their gradient tile by tile; keys, values and points block by block of keys. The gradient of the
table has a kernel of its own: what a key adds lies in a patch, the part of the table that the queries read for it. The
patches of all keys are summed up by two more passes. No sum depends on the order in which programs run.

Shapes: B batch, h heads, G offset groups, H x W queries, K keys, d channels of a head, (Ty, Tx) table.
"""
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmattn.ops.fused import failure
from mmattn.ops.grid import query_grid, spans
from mmattn.ops.kernels.common import LOG2E, block_of, dot, index_type, launch, precision
from mmattn.ops.separable import separable_attention

COLUMNS = 16        # queries of a row of a tile
CHUNK = 512         # keys whose patches a program sums,
SUMMED = 32, 32     # entries and keys at a time


class Tile(NamedTuple):
    """What a program has at a time: rows of a tile of queries, keys of a block; and its warps."""
    rows: int
    keys: int
    warps: int = 4


class Tiles(NamedTuple):
    """Of the kernels: the largest that keep to the registers of a GPU."""
    forward: Tile
    queries: Tile
    keys: Tile
    patches: Tile


# by bytes of a number and BLOCK_D
TILES = {
    (2, 16): Tiles(Tile(4, 64), Tile(4, 32), Tile(2, 64), Tile(4, 64)),
    (2, 32): Tiles(Tile(4, 64), Tile(4, 32), Tile(2, 64), Tile(4, 64)),
    (2, 64): Tiles(Tile(4, 64), Tile(4, 32), Tile(4, 32), Tile(4, 64, 8)),
    (2, 128): Tiles(Tile(4, 64, 8), Tile(4, 32), Tile(2, 32), Tile(4, 32)),
    (4, 16): Tiles(Tile(4, 64), Tile(4, 32), Tile(2, 64), Tile(4, 64)),
    (4, 32): Tiles(Tile(4, 32), Tile(4, 32), Tile(1, 32), Tile(4, 32)),
    (4, 64): Tiles(Tile(2, 32, 8), Tile(2, 32), Tile(2, 32, 8), Tile(2, 16)),
    (4, 128): Tiles(Tile(2, 16, 8), Tile(2, 16, 8), Tile(2, 16, 8), Tile(2, 16, 8)),
}


@triton.jit
def _tile(number, H, W, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INDEX: tl.constexpr):
    """Row and column of the queries of a tile, and which of them there are."""
    across = tl.cdiv(W, COLUMNS)
    place = tl.arange(0, ROWS * COLUMNS).to(INDEX)
    i = number // across * ROWS + place // COLUMNS
    j = number % across * COLUMNS + place % COLUMNS
    return i, j, (i < H) & (j < W)


@triton.jit
def _points(POINTS, n, there, per_y, per_x, far_y, far_x):
    """Positions of keys in entries of the table, on the ring at most, and 0 for each, or NaN where it has none."""
    y = tl.load(POINTS + 2 * n, mask=there, other=0.0)
    x = tl.load(POINTS + 2 * n + 1, mask=there, other=0.0)
    number = (y == y) & (x == x)
    y = tl.minimum(tl.maximum(tl.where(number, y, 0.0) * per_y, -far_y), far_y)
    x = tl.minimum(tl.maximum(tl.where(number, x, 0.0) * per_x, -far_x), far_x)
    return y, x, tl.where(number, 0.0, float('nan'))


@triton.jit
def _read(TABLE, y, x, WIDTH: tl.constexpr):
    """The table at (y, x), and its slopes along both."""
    top = tl.floor(y)
    left = tl.floor(x)
    down = y - top
    right = x - left
    place = TABLE + (top.to(tl.int32) * WIDTH + left.to(tl.int32))
    a = tl.load(place)
    b = tl.load(place + 1)
    c = tl.load(place + WIDTH)
    d = tl.load(place + WIDTH + 1)
    upper = a + right * (b - a)
    slope_y = c + right * (d - c) - upper
    return upper + down * slope_y, slope_y, (b - a) + down * ((d - c) - (b - a))


@triton.jit
def _load(BASE, n, d, there, s_n, s_d, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """(n, d) channels of tokens; zeros where there are none."""
    mask = there[:, None] if DIM == BLOCK_D else there[:, None] & (d < DIM)[None, :]
    return tl.load(BASE + n[:, None] * s_n + d[None, :] * s_d, mask=mask, other=0.0)


@triton.jit
def _load_tile(BASE, i, j, d, there, s_y, s_x, s_d, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """(queries, d) channels of a tile; zeros where there are none."""
    return _load(BASE, i * s_y + j * s_x, d, there, 1, s_d, DIM, BLOCK_D)


@triton.jit
def _forward(Q, K, V, POINTS, TABLE, OUT, LSE, H, W, KEYS, HEADS, PER_GROUP, scale,
             step_y, step_x, start_y, start_x, per_y, per_x, far_y, far_x,
             q_b, q_h, q_y, q_x, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, o_b, o_h, o_y, o_x, o_d, table_h,
             WIDTH: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
             BLOCK: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr):
    image_head = tl.program_id(1).to(INDEX)
    b = image_head // HEADS
    h = image_head % HEADS
    d = tl.arange(0, BLOCK_D)
    i, j, real = _tile(tl.program_id(0), H, W, ROWS, COLUMNS, INDEX)
    q = _load_tile(Q + b * q_b + h * q_h, i, j, d, real, q_y, q_x, q_d, DIM, BLOCK_D)
    y = i.to(tl.float32) * step_y + start_y
    x = j.to(tl.float32) * step_x + start_x
    first = (b * (HEADS // PER_GROUP) + h // PER_GROUP) * KEYS
    top = tl.full([ROWS * COLUMNS], -1e30, tl.float32)
    total = tl.zeros([ROWS * COLUMNS], tl.float32)
    acc = tl.zeros([ROWS * COLUMNS, BLOCK_D], tl.float32)
    for start in range(0, KEYS, BLOCK):
        n = start + tl.arange(0, BLOCK)
        there = n < KEYS
        k_y, k_x, none = _points(POINTS, first + n, there, per_y, per_x, far_y, far_x)
        k = _load(K + b * k_b + h * k_h, n.to(INDEX), d, there, k_n, k_d, DIM, BLOCK_D)
        v = _load(V + b * v_b + h * v_h, n.to(INDEX), d, there, v_n, v_d, DIM, BLOCK_D)
        bias, _, _ = _read(TABLE + h * table_h, y[:, None] - k_y[None, :], x[:, None] - k_x[None, :], WIDTH)
        bias += tl.where(there, none, float('-inf'))[None, :]
        logits = dot(q, tl.trans(k), None, PRECISION) * scale + bias
        higher = tl.maximum(top, tl.max(logits, 1))
        weights = tl.exp2(logits - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        acc = dot(weights.to(v.dtype), v, acc * shrink[:, None], PRECISION)
        top = higher
    place = OUT + b * o_b + h * o_h + (i * o_y + j * o_x)[:, None] + d[None, :] * o_d
    tl.store(place, (acc / total[:, None]).to(OUT.dtype.element_ty), mask=real[:, None] & (d < DIM)[None, :])
    tl.store(LSE + image_head * H * W + i * W + j, top + tl.log2(total), mask=real)


@triton.jit
def _backward_queries(Q, K, V, GRAD, POINTS, TABLE, LSE, DELTA, GRAD_Q, H, W, KEYS, HEADS, PER_GROUP, scale,
                      logit_scale, step_y, step_x, start_y, start_x, per_y, per_x, far_y, far_x,
                      q_b, q_h, q_y, q_x, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, g_b, g_h, g_y, g_x, g_d,
                      o_b, o_h, o_y, o_x, o_d, table_h,
                      WIDTH: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
                      COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr):
    image_head = tl.program_id(1).to(INDEX)
    b = image_head // HEADS
    h = image_head % HEADS
    d = tl.arange(0, BLOCK_D)
    i, j, real = _tile(tl.program_id(0), H, W, ROWS, COLUMNS, INDEX)
    q = _load_tile(Q + b * q_b + h * q_h, i, j, d, real, q_y, q_x, q_d, DIM, BLOCK_D)
    grad = _load_tile(GRAD + b * g_b + h * g_h, i, j, d, real, g_y, g_x, g_d, DIM, BLOCK_D)
    flat = image_head * H * W + i * W + j
    lse = tl.load(LSE + flat, mask=real, other=float('inf'))
    delta = tl.load(DELTA + flat, mask=real, other=0.0)
    y = i.to(tl.float32) * step_y + start_y
    x = j.to(tl.float32) * step_x + start_x
    first = (b * (HEADS // PER_GROUP) + h // PER_GROUP) * KEYS
    acc = tl.zeros([ROWS * COLUMNS, BLOCK_D], tl.float32)
    for start in range(0, KEYS, BLOCK):
        n = start + tl.arange(0, BLOCK)
        there = n < KEYS
        k_y, k_x, none = _points(POINTS, first + n, there, per_y, per_x, far_y, far_x)
        k = _load(K + b * k_b + h * k_h, n.to(INDEX), d, there, k_n, k_d, DIM, BLOCK_D)
        v = _load(V + b * v_b + h * v_h, n.to(INDEX), d, there, v_n, v_d, DIM, BLOCK_D)
        bias, _, _ = _read(TABLE + h * table_h, y[:, None] - k_y[None, :], x[:, None] - k_x[None, :], WIDTH)
        logits = dot(q, tl.trans(k), None, PRECISION) * scale + bias + none[None, :]
        weights = tl.exp2(logits - lse[:, None])
        grad_logits = weights * (dot(grad, tl.trans(v), None, PRECISION) - delta[:, None])
        acc = dot(grad_logits.to(k.dtype), k, acc, PRECISION)       # keys that are not there are zeros
    place = GRAD_Q + b * o_b + h * o_h + (i * o_y + j * o_x)[:, None] + d[None, :] * o_d
    tl.store(place, (acc * logit_scale).to(GRAD_Q.dtype.element_ty), mask=real[:, None] & (d < DIM)[None, :])


@triton.jit
def _weights_of(k, v, k_y, k_x, none, Q, GRAD, TABLE, LSE, DELTA, number, d, H, W, scale, step_y, step_x, start_y,
                start_x, q_y, q_x, q_d, g_y, g_x, g_d, WIDTH: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr):
    """Weights (keys, queries) of a block of keys and a tile of queries, the gradient of the logits and the slopes of
    the bias; queries and their gradients."""
    i, j, real = _tile(number, H, W, ROWS, COLUMNS, INDEX)
    q = _load_tile(Q, i, j, d, real, q_y, q_x, q_d, DIM, BLOCK_D)
    grad = _load_tile(GRAD, i, j, d, real, g_y, g_x, g_d, DIM, BLOCK_D)
    lse = tl.load(LSE + i * W + j, mask=real, other=float('inf'))
    delta = tl.load(DELTA + i * W + j, mask=real, other=0.0)
    y = tl.minimum(i, H - 1).to(tl.float32) * step_y + start_y
    x = tl.minimum(j, W - 1).to(tl.float32) * step_x + start_x
    bias, slope_y, slope_x = _read(TABLE, y[None, :] - k_y[:, None], x[None, :] - k_x[:, None], WIDTH)
    logits = dot(k, tl.trans(q), None, PRECISION) * scale + bias + none[:, None]
    weights = tl.exp2(logits - lse[None, :])
    grad_logits = weights * (dot(v, tl.trans(grad), None, PRECISION) - delta[None, :])
    return weights, grad_logits, slope_y, slope_x, q, grad


@triton.jit
def _backward_keys(Q, K, V, GRAD, POINTS, TABLE, LSE, DELTA, GRAD_K, GRAD_V, GRAD_POINTS, H, W, KEYS, HEADS, PER_GROUP,
                   scale, logit_scale, step_y, step_x, start_y, start_x, per_y, per_x, far_y, far_x,
                   q_b, q_h, q_y, q_x, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, g_b, g_h, g_y, g_x, g_d, table_h,
                   WIDTH: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
                   COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr):
    image_head = tl.program_id(1).to(INDEX)
    b = image_head // HEADS
    h = image_head % HEADS
    d = tl.arange(0, BLOCK_D)
    n = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    there = n < KEYS
    first = (b * (HEADS // PER_GROUP) + h // PER_GROUP) * KEYS
    k_y, k_x, none = _points(POINTS, first + n, there, per_y, per_x, far_y, far_x)
    k = _load(K + b * k_b + h * k_h, n, d, there, k_n, k_d, DIM, BLOCK_D)
    v = _load(V + b * v_b + h * v_h, n, d, there, v_n, v_d, DIM, BLOCK_D)
    grad_k = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    grad_v = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    grad_y = tl.zeros([BLOCK], tl.float32)
    grad_x = tl.zeros([BLOCK], tl.float32)
    for number in range(0, tl.cdiv(H, ROWS) * tl.cdiv(W, COLUMNS)):
        weights, grad_logits, slope_y, slope_x, q, grad = _weights_of(
            k, v, k_y, k_x, none, Q + b * q_b + h * q_h, GRAD + b * g_b + h * g_h, TABLE + h * table_h,
            LSE + image_head * H * W, DELTA + image_head * H * W, number, d, H, W, scale, step_y, step_x, start_y,
            start_x, q_y, q_x, q_d, g_y, g_x, g_d, WIDTH, DIM, BLOCK_D, ROWS, COLUMNS, PRECISION, INDEX)
        grad_v = dot(weights.to(grad.dtype), grad, grad_v, PRECISION)
        grad_k = dot(grad_logits.to(q.dtype), q, grad_k, PRECISION)
        grad_y -= tl.sum(grad_logits * slope_y, 1)
        grad_x -= tl.sum(grad_logits * slope_x, 1)
    flat = image_head * KEYS + n
    mask = there[:, None] & (d < DIM)[None, :]
    tl.store(GRAD_K + flat[:, None] * DIM + d[None, :], (grad_k * logit_scale).to(GRAD_K.dtype.element_ty), mask=mask)
    tl.store(GRAD_V + flat[:, None] * DIM + d[None, :], grad_v.to(GRAD_V.dtype.element_ty), mask=mask)
    # the table is in powers of two, and its slope per entry
    tl.store(GRAD_POINTS + 2 * flat, grad_y * (per_y * 0.6931471805599453), mask=there)
    tl.store(GRAD_POINTS + 2 * flat + 1, grad_x * (per_x * 0.6931471805599453), mask=there)


@triton.jit
def _backward_patches(Q, K, V, GRAD, POINTS, TABLE, LSE, DELTA, PATCHES, H, W, KEYS, HEADS, PER_GROUP, scale,
                      step_y, step_x, start_y, start_x, per_y, per_x, far_y, far_x,
                      q_b, q_h, q_y, q_x, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, g_b, g_h, g_y, g_x, g_d, table_h,
                      WIDTH: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
                      COLUMNS: tl.constexpr, BLOCK: tl.constexpr, READ_Y: tl.constexpr, READ_X: tl.constexpr,
                      PATCH_Y: tl.constexpr, PATCH_X: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr):
    """Gradient of the table by key: PATCHES (B h, PATCH_Y, PATCH_X, K), counted from the entry that the first query
    reads for it. A tile of queries reads at most READ_Y x READ_X entries for a key."""
    image_head = tl.program_id(1).to(INDEX)
    b = image_head // HEADS
    h = image_head % HEADS
    d = tl.arange(0, BLOCK_D)
    n = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    there = n < KEYS
    first = (b * (HEADS // PER_GROUP) + h // PER_GROUP) * KEYS
    k_y, k_x, none = _points(POINTS, first + n, there, per_y, per_x, far_y, far_x)
    k = _load(K + b * k_b + h * k_h, n, d, there, k_n, k_d, DIM, BLOCK_D)
    v = _load(V + b * v_b + h * v_h, n, d, there, v_n, v_d, DIM, BLOCK_D)
    patch = PATCHES + image_head * (PATCH_Y * PATCH_X) * KEYS + n
    across = tl.cdiv(W, COLUMNS)
    for number in range(0, tl.cdiv(H, ROWS) * across):
        _, grad_logits, _, _, _, _ = _weights_of(
            k, v, k_y, k_x, none, Q + b * q_b + h * q_h, GRAD + b * g_b + h * g_h, TABLE + h * table_h,
            LSE + image_head * H * W, DELTA + image_head * H * W, number, d, H, W, scale, step_y, step_x, start_y,
            start_x, q_y, q_x, q_d, g_y, g_x, g_d, WIDTH, DIM, BLOCK_D, ROWS, COLUMNS, PRECISION, INDEX)
        i = number // across * ROWS
        j = number % across * COLUMNS
        top = tl.floor(i * step_y + start_y - k_y)
        left = tl.floor(j * step_x + start_x - k_x)
        y = tl.minimum(i + tl.arange(0, ROWS), H - 1).to(tl.float32)[None, :] * step_y + start_y - (k_y + top)[:, None]
        x = tl.minimum(j + tl.arange(0, COLUMNS), W - 1).to(tl.float32)[None, :] * step_x + start_x
        x -= (k_x + left)[:, None]
        place = ((top - tl.floor(start_y - k_y)) * PATCH_X + left - tl.floor(start_x - k_x)).to(INDEX)
        by_place = tl.reshape(grad_logits, [BLOCK, ROWS, COLUMNS])
        for c in range(READ_X):
            by_row = tl.sum(by_place * tl.maximum(1.0 - tl.abs(x - c), 0.0)[:, None, :], 2)
            for r in range(READ_Y):
                more = tl.sum(by_row * tl.maximum(1.0 - tl.abs(y - r), 0.0), 1)
                entry = patch + (place + r * PATCH_X + c) * KEYS
                tl.store(entry, tl.load(entry, mask=there, other=0.0) + more, mask=there)
        tl.debug_barrier()      # the next tile adds to the same entries


@triton.jit
def _sum_patches(PATCHES, POINTS, SUMS, KEYS, HEADS, PER_GROUP, CHUNKS, entries, start_y, start_x, per_y, per_x, far_y,
                 far_x, ring_y, ring_x, TABLE_X: tl.constexpr, PATCH_Y: tl.constexpr, PATCH_X: tl.constexpr,
                 CHUNK: tl.constexpr, ENTRIES: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """SUMS (B, CHUNKS, h, Ty Tx): the patches of CHUNK keys of an image, where they lie in the table."""
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    h = tl.program_id(1).to(INDEX)
    b = (tl.program_id(2) // CHUNKS).to(INDEX)
    first = (b * (HEADS // PER_GROUP) + h // PER_GROUP) * KEYS
    patch = PATCHES + (b * HEADS + h) * (PATCH_Y * PATCH_X) * KEYS
    acc = tl.zeros([ENTRIES], tl.float32)
    chunk = tl.program_id(2) % CHUNKS * CHUNK
    for start in range(chunk, tl.minimum(chunk + CHUNK, KEYS), BLOCK):
        n = start + tl.arange(0, BLOCK)
        there = n < KEYS
        k_y, k_x, _ = _points(POINTS, first + n, there, per_y, per_x, far_y, far_x)
        y = (entry // TABLE_X + ring_y)[:, None] - tl.floor(start_y - k_y).to(tl.int32)[None, :]
        x = (entry % TABLE_X + ring_x)[:, None] - tl.floor(start_x - k_x).to(tl.int32)[None, :]
        inside = there[None, :] & (y >= 0) & (y < PATCH_Y) & (x >= 0) & (x < PATCH_X)
        place = patch + (y * PATCH_X + x).to(INDEX) * KEYS + n[None, :]
        acc += tl.sum(tl.load(place, mask=inside, other=0.0), 1)
    place = SUMS + (tl.program_id(2).to(INDEX) * HEADS + h) * entries + entry
    tl.store(place, acc, mask=entry < entries)


@dataclass(frozen=True)
class _Axis:
    """One axis of the map and of the table."""
    side: int           # queries
    entries: int        # of the table
    span: int           # cells of the map from -1 to 1
    start: float        # where the first query is, normalised

    @property
    def per_unit(self) -> float:
        """Entries per normalised unit."""
        return (self.entries - 1) / 4

    @property
    def ring(self) -> int:
        """Zeros on each side: a query reads up to half the table outside, and a cell more."""
        return self.entries // 2 + 3

    @property
    def far(self) -> float:
        """Where no query reads anything but zeros, from the middle, in entries: three units and a cell."""
        return 3 * self.per_unit + 1.5

    @property
    def step(self) -> float:
        """Entries from one query to the next."""
        return 2 / self.span * self.per_unit

    @property
    def first(self) -> float:
        """What the first query reads for a key in the middle, with the ring."""
        return self.start * self.per_unit + (self.entries - 1) / 2 + self.ring

    def read(self, queries: int) -> int:
        """How many entries some neighbouring queries read for a key, at most."""
        return int((min(queries, self.side) - 1) * self.step + 1e-3) + 3

    def patch(self, read: int) -> int:
        """How many entries all queries read for a key, at most, where some read so many."""
        return int((self.side - 1) * self.step) + 2 + read


def _axes(size: torch.Size, table: torch.Size, convention: str) -> tuple[_Axis, _Axis]:
    y, x = (_Axis(side, entries, span, 1 / span - 1 if convention == 'dat' else -1.0)
            for side, entries, span in zip(size, table, spans(size, convention)))
    return y, x


def deformable_attention(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, convention: str) -> Tensor:
    """As `mmattn.ops.deformable.deformable_attention`."""
    points = points.to(torch.float32)
    return _DeformableAttention.apply(q, k.flatten(2, 3), v.flatten(2, 3), points.flatten(2, 3), table, convention)


class _DeformableAttention(torch.autograd.Function):
    """q (B, h, H, W, d), k and v (B, h, K, d), points (B, G, K, 2), table (h, Ty, Tx) -> (B, h, H, W, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, convention: str) -> Tensor:
        points = points.contiguous()
        axes = _axes(q.shape[2:4], table.shape[1:], convention)
        ring = _ringed(table, axes)
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)
        tile = _tiles(q).forward
        launch(_forward, (_count(axes, tile), q.shape[0] * q.shape[1]), q.device, q, k, v, points, ring, out, lse,
               *_sizes(q, k, points), q.shape[4] ** -0.5 * LOG2E, *_geometry(axes), *q.stride(), *k.stride(),
               *v.stride(), *out.stride(), ring.stride(0), **_constants(q, k, v, out, ring=ring), **_options(tile))
        ctx.save_for_backward(q, k, v, points, table, out, lse)
        ctx.convention = convention
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, points, table, out, lse = ctx.saved_tensors
        batch, heads, *_, dims = q.shape
        count = k.shape[2]
        y, x = axes = _axes(q.shape[2:4], table.shape[1:], ctx.convention)
        ring = _ringed(table, axes)
        delta = (grad_out.float() * out).sum(-1)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (t.new_empty(batch, heads, count, dims) for t in (k, v))
        by_head = points.new_empty(batch, heads, count, 2)
        inputs = q, k, v, grad_out, points, ring, lse, delta
        scale = dims ** -0.5
        strides = *q.stride(), *k.stride(), *v.stride(), *grad_out.stride()

        tile = _tiles(q).queries
        constants = _constants(q, k, v, grad_out, grad_q, ring=ring)
        launch(_backward_queries, (_count(axes, tile), batch * heads), q.device, *inputs, grad_q,
               *_sizes(q, k, points), scale * LOG2E, scale, *_geometry(axes), *strides, *grad_q.stride(),
               ring.stride(0), **constants, **_options(tile))

        tile = _tiles(q).keys
        launch(_backward_keys, (triton.cdiv(count, tile.keys), batch * heads), q.device, *inputs, grad_k, grad_v,
               by_head, *_sizes(q, k, points), scale * LOG2E, scale, *_geometry(axes), *strides, ring.stride(0),
               **constants, **_options(tile))

        tile = _tiles(q).patches
        read_y, read_x = y.read(tile.rows), x.read(COLUMNS)
        patch_y, patch_x = y.patch(read_y), x.patch(read_x)
        patches = points.new_zeros(batch * heads, patch_y, patch_x, count)
        constants = _constants(q, k, v, grad_out, patches, ring=ring)
        launch(_backward_patches, (triton.cdiv(count, tile.keys), batch * heads), q.device, *inputs, patches,
               *_sizes(q, k, points), scale * LOG2E, *_geometry(axes), *strides, ring.stride(0), **constants,
               **_options(tile), READ_Y=read_y, READ_X=read_x, PATCH_Y=patch_y, PATCH_X=patch_x)

        entries, chunks = y.entries * x.entries, triton.cdiv(count, CHUNK)
        sums = points.new_empty(batch * chunks, heads, entries)
        launch(_sum_patches, (triton.cdiv(entries, SUMMED[0]), heads, batch * chunks), q.device, patches, points, sums,
               count, heads, heads // points.shape[1], chunks, entries, y.first, x.first, y.per_unit, x.per_unit, y.far,
               x.far, y.ring, x.ring, TABLE_X=x.entries, PATCH_Y=patch_y, PATCH_X=patch_x, CHUNK=CHUNK,
               ENTRIES=SUMMED[0], BLOCK=SUMMED[1], INDEX=constants['INDEX'])
        grad_table = sums.sum(0).view_as(table).to(table.dtype)
        grad_points = by_head.unflatten(1, (points.shape[1], -1)).sum(2)
        return grad_q, grad_k, grad_v, grad_points, grad_table, None


def _ringed(table: Tensor, axes: tuple[_Axis, _Axis]) -> Tensor:
    """(h, Ty', Tx') the table in powers of two, with its ring of zeros."""
    y, x = axes
    return F.pad(table.float() * LOG2E, (x.ring, x.ring, y.ring, y.ring))


def _sizes(q: Tensor, k: Tensor, points: Tensor) -> tuple[int, ...]:
    """H, W, K, heads, heads of an offset group."""
    return *q.shape[2:4], k.shape[2], q.shape[1], q.shape[1] // points.shape[1]


def _geometry(axes: tuple[_Axis, _Axis]) -> tuple[float, ...]:
    y, x = axes
    return y.step, x.step, y.first, x.first, y.per_unit, x.per_unit, y.far, x.far


def _constants(q: Tensor, *others: Tensor, ring: Tensor) -> dict[str, Any]:
    dims = q.shape[4]
    block = block_of(dims)
    # three products of TF32 with so many channels do not fit the registers
    return dict(WIDTH=ring.shape[2], DIM=dims, BLOCK_D=block, PRECISION=precision(q.dtype, exact=block > 64),
                INDEX=index_type(q, *others))


def _tiles(q: Tensor) -> Tiles:
    return TILES[q.itemsize, block_of(q.shape[4])]


def _count(axes: tuple[_Axis, _Axis], tile: Tile) -> int:
    y, x = axes
    return triton.cdiv(y.side, tile.rows) * triton.cdiv(x.side, COLUMNS)


def _options(tile: Tile) -> dict[str, int]:
    # more than one stage would send what is read of the table through shared memory
    return dict(ROWS=tile.rows, COLUMNS=COLUMNS, BLOCK=tile.keys, num_warps=tile.warps, num_stages=1)


@cache
def trial(device: torch.device, dtype: torch.dtype, dims: int) -> str | None:
    """Why the kernels must not be used for heads of `dims` channels on a device; None if they come out right."""
    generator = torch.Generator().manual_seed(0)
    shapes = dict(q=(1, 2, 5, 19, dims), k=(1, 2, 5, 14, dims), v=(1, 2, 5, 14, dims), points=(1, 1, 5, 14, 2),
                  table=(2, 9, 11))
    inputs = {name: torch.randn(shape, generator=generator).clamp(-1.17, 1.17).to(device)
              for name, shape in shapes.items()}
    inputs.update({name: inputs[name].to(dtype) for name in 'qkv'})

    def run(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor) -> Tensor:
        return deformable_attention(q, k, v, points, table, 'dat')

    def plain(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor) -> Tensor:
        grid = query_grid(q.shape[2:4], 'dat', device).to(points.dtype)
        return separable_attention(q, k.flatten(2, 3), v.flatten(2, 3), points.flatten(2, 3), table, grid[:, 0, 0],
                                   grid[0, :, 1], block=2 ** 24)

    return failure(run, plain, inputs)
