"""Deformable attention (Xia et al., CVPR 2022, section 3.2): all queries share keys sampled at learned points.

Shapes: B batch, G offset groups, h heads (h / G of them share the points of a group), H x W queries, Hk x Wk keys.
"""
import torch
from einops import rearrange

from mmattn.ops.attention import attention
from mmattn.ops.grid import key_grid, query_grid, sample, spans


def deform_points(offsets, range_factor, convention):
    """Points = reference grid + bounded offsets.

    Args:
        offsets (Tensor): (B, G, Hk, Wk, 2) raw network output, (y, x).
        range_factor (float): s >= 0 bounds an offset by s cells of the key grid, s tanh(offset);
            negative leaves it free and clamps the point to the image instead (DAT++).
        convention (str): coordinate convention, see `mmattn.ops.grid`.

    Returns:
        tuple[Tensor, Tensor]: points (B, G, Hk, Wk, 2) and references (Hk, Wk, 2), float32, (y, x) in
        normalised coordinates. Points may leave [-1, 1] when s >= 0.
    """
    size = offsets.shape[2:4]
    reference = key_grid(size, convention, offsets.device).to(torch.promote_types(offsets.dtype, torch.float32))
    offsets = offsets.to(reference.dtype)
    if range_factor < 0:
        return (reference + offsets).clamp(-1, 1), reference
    cell = reference.new_tensor([range_factor / n for n in spans(size, convention)])
    return reference + offsets.tanh() * cell, reference


def sample_groups(x, points):
    """Read each channel group of a map at its own points.

    Args:
        x (Tensor): (B, G * c, H, W).
        points (Tensor): (B, G, Hk, Wk, 2), (y, x) normalised.

    Returns:
        Tensor: (B, G * c, Hk, Wk).
    """
    batch, groups = points.shape[:2]
    sampled = sample(rearrange(x, 'b (g c) h w -> (b g) c h w', g=groups), points.flatten(0, 1))
    return rearrange(sampled, '(b g) c h w -> b (g c) h w', b=batch)


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
    return rearrange(sample(table, displacement), '(b g) h n k -> b (g h) n k', b=batch)


def deformable_attention(q, k, v, points, table, convention, dropout=0.0):
    """Attention of every query to the keys sampled at `points`, with a continuous relative position bias.

    Args:
        q (Tensor): (B, h, H, W, d) queries.
        k, v (Tensor): (B, h, Hk, Wk, d) keys and values at the points.
        points (Tensor): (B, G, Hk, Wk, 2), (y, x) normalised.
        table (Tensor | None): (h, Ty, Tx) position bias table; None for no bias.
        convention (str): coordinate convention of the query grid, see `mmattn.ops.grid`.
        dropout (float): probability of dropping an attention weight.

    Returns:
        Tensor: (B, h, H, W, d).
    """
    size = q.shape[2:4]
    bias = None
    if table is not None:
        queries = query_grid(size, convention, q.device).to(points.dtype).flatten(0, 1)
        bias = position_bias(table, queries, points.flatten(2, 3))
    out = attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), bias, dropout)
    return out.unflatten(2, size)
