"""Deformable attention (Xia et al., CVPR 2022, section 3.2): all queries share keys sampled at learned points.

Shapes: B batch, G offset groups, h heads (h / G of them share the points of a group), H x W queries, Hk x Wk keys.
"""
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.backend import choose_backend
from mmattn.ops.flex import flex_deformable_attention, flex_refusals
from mmattn.ops.grid import key_grid, query_grid, sample, spans
from mmattn.ops.separable import separable_attention

BACKEND_VARIABLE = 'MMATTN_DEFORMABLE_ATTENTION'
SMALL = 2 ** 17     # queries x keys below which one plain product beats many small ones


def deform_points(offsets, range_factor, convention):
    """Points = reference grid + offsets.

    A range factor s > 0 bounds an offset to s cells of the key grid, s tanh(offset). A negative one leaves it free
    and keeps the point in the image: 'dat_pp' clamps it to [-1, 1], 'dat' takes its tanh, references included, as the
    authors' code of each does. At 0, 'dat' leaves offsets free and 'dat_pp' makes them zero.

    Args:
        offsets (Tensor): (B, G, Hk, Wk, 2) raw network output, (y, x).
        range_factor (float): s.
        convention (str): coordinate convention, see `mmattn.ops.grid`.

    Returns:
        tuple[Tensor, Tensor]: points (B, G, Hk, Wk, 2) and references (Hk, Wk, 2), at least float32, (y, x) in
        normalised coordinates. Points may leave [-1, 1] when s >= 0.
    """
    size = offsets.shape[2:4]
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    reference = key_grid(size, convention, offsets.device).to(offsets.dtype)
    if range_factor < 0:
        points = reference + offsets
        return points.tanh() if convention == 'dat' else points.clamp(-1, 1), reference
    if range_factor == 0 and convention == 'dat':
        return reference + offsets, reference
    cell = reference.new_tensor([1 / n for n in spans(size, convention)])
    return reference + offsets.tanh() * cell * range_factor, reference


def sample_groups(x, points):
    """Read each channel group of a map at its own points.

    Args:
        x (Tensor): (B, G * c, H, W).
        points (Tensor): (B, G, Hk, Wk, 2), (y, x) normalised.

    Returns:
        Tensor: (B, G * c, Hk, Wk).
    """
    groups = points.shape[1]
    sampled = sample(rearrange(x, 'b (g c) h w -> (b g) c h w', g=groups), points.flatten(0, 1))
    return rearrange(sampled, '(b g) c h w -> b (g c) h w', g=groups)


def position_bias(table, queries, points):
    """Continuous relative position bias: the table read at displacement / 2 (section 3.2, 'deformable relative
    position bias').

    Args:
        table (Tensor): (h, Ty, Tx), entries spread evenly over displacements from -2 to 2 on each axis.
        queries (Tensor): (N, 2) query positions, (y, x) normalised.
        points (Tensor): (B, G, K, 2) sampled points, (y, x) normalised; the heads of a group share them.

    Returns:
        Tensor: (B, h, N, K).
    """
    batch, groups = points.shape[:2]
    displacement = (queries[:, None] - points.flatten(0, 1)[:, None]) / 2           # (B G, N, K, 2)
    table = rearrange(table, '(g h) y x -> g h y x', g=groups).to(points.dtype)
    table = table.repeat(batch, 1, 1, 1)                                            # (B G, h / G, Ty, Tx)
    return rearrange(sample(table, displacement), '(b g) h n k -> b (g h) n k', g=groups)


def log_displacements(queries, points):
    """What the log-spaced continuous position bias looks at (log-CPB; Swin Transformer V2, eq. 4, as DAT++ uses it):
    sign(u) log2(1 + |u|) / log2(8) of u = 4 (query - point) on each axis.

    Args:
        queries (Tensor): (N, 2), normalised.
        points (Tensor): (B, G, K, 2), normalised.

    Returns:
        Tensor: (B, G, N, K, 2), from about -1 to 1 for displacements inside the image.
    """
    u = 4 * (queries[:, None] - points[:, :, None])
    return u.sign() * torch.log2(u.abs() + 1) / 3


def resize_fixed_bias(table, queries, keys):
    """A bias (h, N, K) for the queries and keys of one map size, stretched to another (h, N', K') by bilinear
    interpolation of the flattened indices, as the authors' detection code does."""
    if table.shape[1:] == (queries, keys):
        return table
    return F.interpolate(table[None], (queries, keys), mode='bilinear', align_corners=True)[0]


def backend_refusals(name, q, dropout=0.0):
    """Why a backend of `deformable_attention` cannot serve queries q (B, h, H, W, d); an empty list if it can.

    `dense` holds the bias of all queries and keys and always runs; `separable` (exact, any device) and `flex` (one
    fused CUDA kernel) never hold it. `reference` is the plain formula, for comparison; it is never preferred.
    """
    if dropout and name != 'dense':
        return ['only dense drops attention weights']
    if name == 'separable' and torch.compiler.is_compiling():
        return ['separable looks at the points to choose what it computes, which cannot be traced']
    return flex_refusals(q) if name == 'flex' else []


def preferred_backends(q, k):
    """The backends of `deformable_attention` worth choosing, the fastest first.

    FlexAttention comes first only in inference: it accumulates the gradient of the table with atomic additions, in no
    fixed order, and a few entries get most of them.
    """
    small = q.shape[2] * q.shape[3] * k.shape[2] * k.shape[3] <= SMALL
    names = ['dense', 'separable'] if small else ['separable', 'dense']
    fused_first = q.device.type == 'cuda' and not torch.is_grad_enabled() and not small
    return ['flex', *names] if fused_first else [*names, 'flex']


def deformable_attention(q, k, v, points, table, convention, dropout=0.0, backend=None):
    """Attention of every query to the keys sampled at `points`, with a continuous relative position bias.

    Args:
        q (Tensor): (B, h, H, W, d) queries.
        k, v (Tensor): (B, h, Hk, Wk, d) keys and values at the points.
        points (Tensor): (B, G, Hk, Wk, 2), (y, x) normalised.
        table (Tensor | None): (h, Ty, Tx) position bias table; None for no bias.
        convention (str): coordinate convention of the query grid, see `mmattn.ops.grid`.
        dropout (float): probability of dropping an attention weight.
        backend (str | None): 'dense', 'separable', 'flex' or 'reference', see `backend_refusals`; None takes the one
            that the environment variable MMATTN_DEFORMABLE_ATTENTION names, or else the fastest that can run.

    Returns:
        Tensor: (B, h, H, W, d).

    Raises:
        ValueError: the backend asked for is unknown or cannot run, with its reasons.
    """
    size = q.shape[2:4]
    if table is None:
        return attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), None, dropout).unflatten(2, size)
    grid = query_grid(size, convention, q.device).to(points.dtype)
    name = choose_backend(preferred_backends(q, k), partial(backend_refusals, q=q, dropout=dropout),
                          BACKEND_VARIABLE, backend, never_preferred=('reference',))
    k, v, points = k.flatten(2, 3), v.flatten(2, 3), points.flatten(2, 3)
    if name in ('dense', 'reference'):
        bias = position_bias(table, grid.flatten(0, 1), points)
        q = q.flatten(2, 3)
        out = attention(q, k, v, bias, dropout) if name == 'dense' else reference.attention(q, k, v, bias)
        return out.unflatten(2, size)
    attend = separable_attention if name == 'separable' else flex_deformable_attention
    return attend(q, k, v, points, table, grid[:, 0, 0], grid[0, :, 1])


def point_attention(values, points, weights):
    """Every query sums the values at points of its own (Deformable DETR; Zhu et al., ICLR 2021, eq. 2).

    Args:
        values (Tensor): (B, h, d, H, W).
        points (Tensor): (B, h, Hq, Wq, P, 2), (y, x) normalised.
        weights (Tensor): (B, h, Hq, Wq, P).

    Returns:
        Tensor: (B, h, d, Hq, Wq).
    """
    heads, size = values.shape[1], points.shape[2:4]
    sampled = sample(values.flatten(0, 1), rearrange(points, 'b h y x p two -> (b h) (y x) p two'))
    weights = rearrange(weights, 'b h y x p -> (b h) 1 (y x) p')
    return (sampled * weights).sum(-1).unflatten(0, (len(values), heads)).unflatten(-1, size)
