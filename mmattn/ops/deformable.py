"""Deformable attention (Xia et al., CVPR 2022, section 3.2): all queries share keys sampled at learned points.

Shapes: B batch, G offset groups, h heads (h / G of them share the points of a group), H x W queries, Hk x Wk keys.
"""
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mmattn.ops import reference
from mmattn.ops.attention import attention
from mmattn.ops.dispatch import Budget, Implementation, Implementations, for_comparison, is_traced
from mmattn.ops.flex import flex_deformable_attention, flex_refusals
from mmattn.ops.grid import key_grid, query_grid, sample, spans
from mmattn.ops.separable import separable_attention

SMALL = 2 ** 17     # queries x keys below which one plain product beats many small ones


def deform_points(offsets: Tensor, range_factor: float, convention: str) -> tuple[Tensor, Tensor]:
    """Points = reference grid + offsets.

    A range factor s > 0 bounds an offset to s cells of the key grid, s tanh(offset). A negative one leaves it free
    and keeps the point in the image: 'dat_pp' clamps it to [-1, 1], 'dat' takes its tanh, references included, as the
    authors' code of each does. At 0, 'dat' leaves offsets free and 'dat_pp' makes them zero.

    Args:
        offsets: (B, G, Hk, Wk, 2) raw network output, (y, x).
        range_factor: s.
        convention: coordinate convention, see `mmattn.ops.grid`.

    Returns:
        points (B, G, Hk, Wk, 2) and references (Hk, Wk, 2), at least float32, (y, x) normalised. Points may leave
        [-1, 1] when s >= 0.
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


def sample_groups(x: Tensor, points: Tensor) -> Tensor:
    """Read each channel group of a map at its own points.

    Args:
        x: (B, G * c, H, W).
        points: (B, G, Hk, Wk, 2), (y, x) normalised.

    Returns:
        (B, G * c, Hk, Wk).
    """
    groups = points.shape[1]
    sampled = sample(rearrange(x, 'b (g c) h w -> (b g) c h w', g=groups), points.flatten(0, 1))
    return rearrange(sampled, '(b g) c h w -> b (g c) h w', g=groups)


def position_bias(table: Tensor, queries: Tensor, points: Tensor) -> Tensor:
    """Continuous relative position bias: the table read at displacement / 2 (section 3.2, 'deformable relative
    position bias').

    Args:
        table: (h, Ty, Tx), added to the logits by displacement query - point, (y, x) normalised: entries spread evenly
            from -2 to 2 on each axis, the middle is displacement zero; zero outside.
        queries: (N, 2) query positions, (y, x) normalised.
        points: (B, G, K, 2) sampled points, (y, x) normalised; the heads of a group share them.

    Returns:
        (B, h, N, K).
    """
    batch, groups = points.shape[:2]
    displacement = (queries[:, None] - points.flatten(0, 1)[:, None]) / 2           # (B G, N, K, 2)
    table = rearrange(table, '(g h) y x -> g h y x', g=groups).to(points.dtype)
    table = table.repeat(batch, 1, 1, 1)                                            # (B G, h / G, Ty, Tx)
    return rearrange(sample(table, displacement), '(b g) h n k -> b (g h) n k', g=groups)


def log_displacements(queries: Tensor, points: Tensor) -> Tensor:
    """What the log-spaced continuous position bias looks at (log-CPB; Swin Transformer V2, eq. 4, as DAT++ uses it):
    sign(u) log2(1 + |u|) / log2(8) of u = 4 (query - point) on each axis.

    Args:
        queries: (N, 2), normalised.
        points: (B, G, K, 2), normalised.

    Returns:
        (B, G, N, K, 2), from about -1 to 1 for displacements inside the image.
    """
    u = 4 * (queries[:, None] - points[:, :, None])
    return u.sign() * torch.log2(u.abs() + 1) / 3


def resize_fixed_bias(table: Tensor, queries: int, keys: int) -> Tensor:
    """A bias (h, N, K) for the queries and keys of one map size, stretched to another (h, N', K') by bilinear
    interpolation of the flattened indices, as the authors' detection code does."""
    if table.shape[1:] == (queries, keys):
        return table
    return F.interpolate(table[None], (queries, keys), mode='bilinear', align_corners=True)[0]


def deformable_attention(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
                         dropout: float = 0.0, backend: str | None = None) -> Tensor:
    """Attention of every query to the keys sampled at `points`, with a continuous relative position bias.

    Args:
        q: (B, h, H, W, d) queries.
        k, v: (B, h, Hk, Wk, d) keys and values at the points.
        points: (B, G, Hk, Wk, 2), (y, x) normalised.
        table: (h, Ty, Tx), added to the logits by displacement query - point, see `position_bias`; None for no bias.
        convention: coordinate convention of the query grid, see `mmattn.ops.grid`.
        dropout: probability of dropping an attention weight.
        backend: one of `IMPLEMENTATIONS`; None for the one that the environment variable
            MMATTN_DEFORMABLE_ATTENTION names, or else for the first that can run.

    Returns:
        (B, h, H, W, d).

    Raises:
        ArgumentError: the backend asked for is unknown or cannot run, with its reasons.
    """
    return IMPLEMENTATIONS.run(backend, q, k, v, points, table, convention, dropout)


def _dense(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
           dropout: float) -> Tensor:
    """Holds the bias of all queries and keys; always runs."""
    bias = None if table is None else _whole_bias(q, points, table, convention)
    out = attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), bias, dropout)
    return out.unflatten(2, q.shape[2:4])


def _reference(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
               dropout: float) -> Tensor:
    bias = None if table is None else _whole_bias(q, points, table, convention)
    out = reference.attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), bias)
    return out.unflatten(2, q.shape[2:4])


def _whole_bias(q: Tensor, points: Tensor, table: Tensor, convention: str) -> Tensor:
    grid = query_grid(q.shape[2:4], convention, q.device).to(points.dtype)
    return position_bias(table, grid.flatten(0, 1), points.flatten(2, 3))


def _separable(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, convention: str, dropout: float, *,
               block: int) -> Tensor:
    """Exact, on any device, and never holds the bias."""
    rows, columns = _axes(q, points, convention)
    return separable_attention(q, k.flatten(2, 3), v.flatten(2, 3), points.flatten(2, 3), table, rows, columns,
                               block=block)


def _flex(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, convention: str, dropout: float) -> Tensor:
    """One fused CUDA kernel that never holds the bias."""
    rows, columns = _axes(q, points, convention)
    return flex_deformable_attention(q, k.flatten(2, 3), v.flatten(2, 3), points.flatten(2, 3), table, rows, columns)


def _axes(q: Tensor, points: Tensor, convention: str) -> tuple[Tensor, Tensor]:
    """Heights (H,) and horizontal positions (W,) of the queries."""
    grid = query_grid(q.shape[2:4], convention, q.device).to(points.dtype)
    return grid[:, 0, 0], grid[0, :, 1]


def _is_small(q: Tensor, k: Tensor) -> bool:
    return q.shape[2] * q.shape[3] * k.shape[2] * k.shape[3] <= SMALL


def _without_bias_or_dropout(table: Tensor | None, dropout: float) -> list[str]:
    reasons = ['without a table there is no bias to avoid'] if table is None else []
    return reasons + (['only dense drops attention weights'] if dropout else [])


def _reference_refusals(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
                        dropout: float) -> list[str]:
    return ['only dense drops attention weights'] if dropout else []


def _separable_refusals(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
                        dropout: float) -> list[str]:
    reasons = _without_bias_or_dropout(table, dropout)
    if is_traced() or points.is_meta:
        reasons.append('it looks at the points to choose what it computes, and a trace or a meta tensor has no values')
    return reasons


def _separable_reservations(q: Tensor, k: Tensor, *rest: object) -> list[str]:
    return [f'one product beats many where queries x keys are at most {SMALL}'] if _is_small(q, k) else []


def _flex_refusals(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
                   dropout: float) -> list[str]:
    return _without_bias_or_dropout(table, dropout) or flex_refusals(q)


def _flex_reservations(q: Tensor, k: Tensor, *rest: object) -> list[str]:
    """Of those that could run: on other devices, the refusals say more."""
    if q.device.type != 'cuda':
        return []
    # Its gradient is summed with atomic additions, and a few entries get most of them.
    reasons = ['in training, it sums the gradient of the table in no fixed order'] if torch.is_grad_enabled() else []
    return reasons + _separable_reservations(q, k)


IMPLEMENTATIONS = Implementations('deformable_attention', 'MMATTN_DEFORMABLE_ATTENTION', {
    'flex': Implementation(_flex, _flex_refusals, _flex_reservations),
    'separable': Implementation(_separable, _separable_refusals, _separable_reservations,
                                # largest tensors of a block
                                {'block': Budget(cpu=2 ** 21, other=2 ** 24)}),
    'dense': Implementation(_dense),
    'reference': Implementation(_reference, _reference_refusals, for_comparison),
})


def point_attention(values: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Every query sums the values at points of its own (Deformable DETR; Zhu et al., ICLR 2021, eq. 2).

    Args:
        values: (B, h, d, H, W).
        points: (B, h, Hq, Wq, P, 2), (y, x) normalised.
        weights: (B, h, Hq, Wq, P).

    Returns:
        (B, h, d, Hq, Wq).
    """
    heads, size = values.shape[1], points.shape[2:4]
    sampled = sample(values.flatten(0, 1), rearrange(points, 'b h y x p two -> (b h) (y x) p two'))
    weights = rearrange(weights, 'b h y x p -> (b h) 1 (y x) p')
    return (sampled * weights).sum(-1).unflatten(0, (len(values), heads)).unflatten(-1, size)
