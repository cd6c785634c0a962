"""Deformable attention (Xia et al., CVPR 2022, section 3.2): all queries share keys sampled at learned points.

Shapes: B batch, G offset groups, h heads (h / G of them share the points of a group), H x W queries, Hk x Wk keys.
"""
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mmattn.ops import reference
from mmattn.ops.attention import attention, attention_in_blocks
from mmattn.ops.dispatch import Budget, Implementation, Implementations, are_symbols, for_comparison, is_traced
from mmattn.ops.fused import kernel_refusals, kernel_reservations
from mmattn.ops.grid import key_grid, query_grid, sample, sample_flipped, spans
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
    # filled, not copied from the host, which would wait for the device
    cell = torch.cat([reference.new_full((1,), 1 / n) for n in spans(size, convention)])
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
    # Halved and flipped while they are few: all pairs are made once.
    queries, points = queries.flip(-1) / 2, points.flatten(0, 1).flip(-1) / 2
    displacement = queries[:, None] - points[:, None]                               # (B G, N, K, 2), (x, y)
    table = rearrange(table, '(g h) y x -> g h y x', g=groups).to(points.dtype)
    table = table.repeat(batch, 1, 1, 1)                                            # (B G, h / G, Ty, Tx)
    return rearrange(sample_flipped(table, displacement), '(b g) h n k -> b (g h) n k', g=groups)


def log_displacements(queries: Tensor, points: Tensor) -> Tensor:
    """What the log-spaced continuous position bias looks at (log-CPB; Swin Transformer V2, eq. 4, as DAT++ uses it):
    sign(u) log2(1 + abs(u)) / log2(8) of u = 4 (query - point) on each axis.

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
    if not are_symbols((queries, keys)) and table.shape[1:] == (queries, keys):
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


def _triton(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, convention: str, dropout: float) -> Tensor:
    """Fused kernels that never hold the bias."""
    from mmattn.ops.kernels.deformable import deformable_attention
    return deformable_attention(q, k, v, points, table, convention)


def _separable(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, convention: str, dropout: float, *,
               block: int) -> Tensor:
    """Exact, on any device, and never holds the bias."""
    grid = query_grid(q.shape[2:4], convention, q.device).to(points.dtype)
    return separable_attention(q, k.flatten(2, 3), v.flatten(2, 3), points.flatten(2, 3), table, grid[:, 0, 0],
                               grid[0, :, 1], block=block)


def _dense(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
           dropout: float, *, logits: int) -> Tensor:
    """Holds the bias of all queries and keys, or where that would be too large, of a block of queries at a time; always
    runs."""
    size = q.shape[2:4]
    q, k, v = (t.flatten(2, 3) for t in (q, k, v))
    if table is None:
        return attention(q, k, v, None, dropout).unflatten(2, size)
    queries, points = _queries(size, convention, points), points.flatten(2, 3)
    if is_traced():
        return attention(q, k, v, position_bias(table, queries, points), dropout).unflatten(2, size)
    out = attention_in_blocks(q, k, v, lambda block: position_bias(table, queries[block], points), dropout,
                              logits=logits)
    return out.unflatten(2, size)


def _reference(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
               dropout: float) -> Tensor:
    size = q.shape[2:4]
    bias = None if table is None else position_bias(table, _queries(size, convention, points), points.flatten(2, 3))
    out = reference.attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), bias)
    return out.unflatten(2, size)


def _queries(size: torch.Size, convention: str, points: Tensor) -> Tensor:
    """(N, 2) where they are."""
    return query_grid(size, convention, points.device).to(points.dtype).flatten(0, 1)


def _is_small(q: Tensor, k: Tensor) -> bool:
    return q.shape[2] * q.shape[3] * k.shape[2] * k.shape[3] <= SMALL


def _without_bias_or_dropout(table: Tensor | None, dropout: float) -> list[str]:
    reasons = ['without a table there is no bias to avoid'] if table is None else []
    return reasons + (['only dense drops attention weights'] if dropout else [])


def _reference_refusals(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
                        dropout: float) -> list[str]:
    return ['only dense drops attention weights'] if dropout else []


def _triton_refusals(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
                     dropout: float) -> list[str]:
    reasons = _without_bias_or_dropout(table, dropout) or kernel_refusals((q, k, v), q.shape[-1:])
    if reasons:
        return reasons
    from mmattn.ops.kernels.deformable import trial
    failure = trial(q.device, q.dtype, q.shape[-1])
    return [failure] if failure else []


def _separable_refusals(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor | None, convention: str,
                        dropout: float) -> list[str]:
    reasons = _without_bias_or_dropout(table, dropout)
    return [*reasons, 'its backward pass cannot be traced'] if is_traced() else reasons


def _separable_reservations(q: Tensor, k: Tensor, *rest: object) -> list[str]:
    if not is_traced() and _is_small(q, k):
        return [f'one product beats many where queries x keys are at most {SMALL}']
    # There, the gradient of the table is summed with atomic additions otherwise.
    if q.device.type != 'cpu' and not torch.are_deterministic_algorithms_enabled():
        return [f'its many small products are for the CPU, or for deterministic algorithms; q is on {q.device.type}']
    return []


IMPLEMENTATIONS = Implementations('deformable_attention', 'MMATTN_DEFORMABLE_ATTENTION', {
    'triton': Implementation(_triton, _triton_refusals, kernel_reservations),
    'separable': Implementation(_separable, _separable_refusals, _separable_reservations,
                                # largest tensors of a block
                                {'block': Budget(cpu=2 ** 21, share=1 / 256)}),
    'dense': Implementation(_dense, budgets={'logits': Budget(cpu=2 ** 26, share=1 / 32)}),
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
