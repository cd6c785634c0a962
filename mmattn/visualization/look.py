"""What each kind of attention layer looks at: `look(layer, x, pixels)`.

Positions are (y, x) on the map that the layer reads, in pixels: 0 is the outer edge of the first pixel, 0.5 its centre,
H or W the outer edge of the last. Keys in the padding of a map lie beyond it.
"""
from dataclasses import dataclass, field
from functools import singledispatch

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mmattn.layers import (
    Attention,
    BiLevelRoutingAttention,
    DeformableAttention,
    DeformableDETRAttention,
    LocalAttention,
    NeighborhoodAttention,
    ShortDistanceAttention,
    SpatialReductionAttention,
)
from mmattn.ops.neighborhood import window_start
from mmattn.ops.partition import group_views, pad_to_multiple
from mmattn.ops.routing import region_view

BLOCK_LOGITS = 2 ** 24      # of all heads at once, where every query counts


@dataclass
class Look:
    """What one layer did with one map of H x W pixels; a layer of h heads, K keys of a query.

    Args:
        attended (list[tuple[Tensor, Tensor]]): for each query asked for, the positions of its keys (h, K, 2), and their
            attention weights (h, K), which sum to 1.
        points (Tensor | None): (G, Hk, Wk, 2) sampled points of deformable attention.
        references (Tensor | None): (Hk, Wk, 2) where they would be without offsets.
        received (Tensor | None): (h, Hk, Wk) attention that each point receives, the mean over all queries; the heads
            of a group, h / G of them, share its points.
        routes (Tensor | None): (Gy, Gx, k) regions that each region of bi-level routing attends to, by number, row by
            row.
        scores (Tensor | None): (Gy, Gx, k) logits of the routes.
        regions (Tensor | None): (Gy, Gx, 4) the regions, (top, left, bottom, right).
        groups (Tensor | None): (H, W) number of the group or window that a pixel belongs to.
    """
    attended: list = field(default_factory=list)
    points: Tensor | None = None
    references: Tensor | None = None
    received: Tensor | None = None
    routes: Tensor | None = None
    scores: Tensor | None = None
    regions: Tensor | None = None
    groups: Tensor | None = None


@singledispatch
def look(layer, x, pixels=()):
    """What an attention layer looks at.

    Args:
        layer (nn.Module): one of the layers of `mmattn.layers`.
        x (Tensor): (1, C, H, W) what it reads.
        pixels (Sequence[tuple[int, int]]): (row, column) of the queries whose keys are wanted.

    Returns:
        Look: see there.

    Raises:
        TypeError: the layer is no attention of ours.
    """
    raise TypeError(f'{type(layer).__name__} is not an attention layer of mmattn')


@look.register
def _(layer: Attention, x, pixels=()):
    q, k, _ = rearrange(layer.qkv(x.permute(0, 2, 3, 1)), '1 y x (three h d) -> three h y x d', three=3,
                        h=layer.num_heads)
    positions = centers(x.shape[2:], x.device).flatten(0, 1)
    return Look([attend(q[:, row, column], k.flatten(1, 2), positions) for row, column in pixels])


@look.register
def _(layer: SpatialReductionAttention, x, pixels=()):
    q, k = layer.q(x), layer.kv(layer.reduce(x)).chunk(2, 1)[0]
    q, k = (rearrange(t, '1 (h d) y x -> h y x d', h=layer.num_heads) for t in (q, k))
    positions = (centers(k.shape[1:3], x.device) * layer.sr_ratio).flatten(0, 1)
    return Look([attend(q[:, row, column], k.flatten(1, 2), positions) for row, column in pixels])


@look.register
def _(layer: LocalAttention, x, pixels=()):
    height, width = x.shape[2:]
    x = pad_to_multiple(x.permute(0, 2, 3, 1), layer.window)
    positions = layer.windows(centers(x.shape[1:3], x.device)[None])[0]                     # (G, N, 2)
    labels = torch.empty(x.shape[1:3], dtype=torch.long, device=x.device)
    places = labels.clone()
    rows, columns = positions.long().unbind(-1)
    count, tokens = positions.shape[:2]
    labels[rows, columns] = torch.arange(count, device=x.device)[:, None].expand(-1, tokens)
    places[rows, columns] = torch.arange(tokens, device=x.device).expand(count, -1)
    q, k, _ = layer.projections(layer.windows(x))
    bias = layer.bias(x.shape[1:3])
    attended = []
    for pixel in pixels:
        window, token = labels[pixel], places[pixel]
        attended.append(attend(q[window, :, token], k[window], positions[window],
                               bias[window if len(bias) > 1 else 0, :, token]))
    return Look(attended, groups=labels[:height, :width])


@look.register
def _(layer: NeighborhoodAttention, x, pixels=()):
    kernel = layer.kernel_size
    q, k, _ = layer.projections(x)[:, 0]
    size, attended = q.shape[1:3], []
    positions = centers(size, x.device)
    for pixel in pixels:
        starts = [window_start(i, side, kernel) for i, side in zip(pixel, size)]
        window = tuple(slice(start, start + kernel) for start in starts)
        of_table = tuple(slice(start - i + kernel - 1, min(start + kernel, side) - i + kernel - 1)
                         for start, i, side in zip(starts, pixel, size))
        attended.append(attend(q[(slice(None), *pixel)], k[(slice(None), *window)].flatten(1, 2),
                               positions[window].flatten(0, 1), layer.rpb[(slice(None), *of_table)].flatten(1)))
    return Look(attended)


@look.register
def _(layer: ShortDistanceAttention, x, pixels=()):
    size = tuple(x.shape[2:])
    group, interval = layer.groups(size)
    labels = _group_labels(size, group, interval, x.device)
    table = layer.table(group, x)                                                           # (h, 2 gy - 1, 2 gx - 1)
    q, k, _ = rearrange(layer.qkv(x.permute(0, 2, 3, 1)), '1 y x (three h d) -> three h y x d', three=3,
                        h=layer.num_heads)
    attended = []
    for pixel in pixels:
        keys = (labels == labels[pixel]).nonzero()                                          # (K, 2)
        away = torch.tensor(pixel, device=x.device).sub(keys).div(interval, rounding_mode='floor')
        rows, columns = (away + away.new_tensor(group) - 1).unbind(-1)
        attended.append(attend(q[(slice(None), *pixel)], k[:, keys[:, 0], keys[:, 1]], keys + 0.5,
                               table[:, rows, columns]))
    return Look(attended, groups=labels)


@look.register
def _(layer: BiLevelRoutingAttention, x, pixels=()):
    q, k, _, routes, logits, weights, mask, _ = layer.routed(x)
    grid = routes.shape[1:3]
    q, k = (region_view(t, grid)[0] for t in (q, k))                                        # (Gy, Gx, y, x, C)
    rows, columns = q.shape[2:4]
    tops, lefts = (torch.arange(n, device=x.device) * side for n, side in zip(grid, (rows, columns)))
    tops, lefts = torch.meshgrid(tops, lefts, indexing='ij')
    regions = torch.stack([tops, lefts, tops + rows, lefts + columns], -1)
    positions = centers((rows, columns), x.device).permute(2, 0, 1)[None]
    positions = F.adaptive_avg_pool2d(positions, k.shape[2:4])[0].flatten(1).T              # in a region, (M, 2)
    attended = []
    for row, column in pixels:
        place = row // rows, column // columns
        chosen = routes[0][place]
        chosen = chosen // grid[1], chosen % grid[1]
        keys, bias = k[chosen], None                                                        # (k, y, x, C)
        if weights is not None:
            keys = keys * weights[0][place][:, None, None, None]
        if mask is not None:
            real = region_view(mask[:1, ..., None], grid)[0][chosen].flatten()
            bias = torch.zeros(len(real), device=x.device).masked_fill(~real, -torch.inf)
        attended.append(attend(rearrange(q[place][row % rows, column % columns], '(h d) -> h d', h=layer.num_heads),
                               rearrange(keys, 'k y x (h d) -> h (k y x) d', h=layer.num_heads),
                               (regions[chosen][:, None, :2] + positions).flatten(0, 1), bias, layer.scale))
    return Look(attended, routes=routes[0], scores=logits[0].float(), regions=regions)


@look.register
def _(layer: DeformableAttention, x, pixels=()):
    q, k, _, points, references = layer.projections(x)
    size, keys = x.shape[2:], points.shape[2:4]
    q, k = q[0].flatten(1, 2), k[0].flatten(1, 2)                                           # (h, N, d), (h, K, d)
    if layer.offset is None:        # keys are means of cells
        means = F.avg_pool2d(centers(size, x.device).permute(2, 0, 1), layer.stride, layer.stride, ceil_mode=True)
        references = means.permute(1, 2, 0)
        positions = references.expand(layer.offset_groups, -1, -1, -1)
    else:
        positions, references = (_to_pixels(t, size) for t in (points[0], references))
    of_heads = positions.flatten(1, 2).repeat_interleave(layer.num_heads // layer.offset_groups, 0)
    bias, attended, received = layer.bias(size, points), [], 0
    for row, column in pixels:
        query = slice(row * size[1] + column, row * size[1] + column + 1)
        attended.append((of_heads, _weights(q[:, query], k, bias and bias(query))[:, 0]))
    step = max(1, BLOCK_LOGITS // (len(k) * k.shape[1]))
    for first in range(0, q.shape[1], step):
        queries = slice(first, first + step)
        received = received + _weights(q[:, queries], k, bias and bias(queries)).sum(1)
    return Look(attended, positions, references, received.unflatten(1, keys) / q.shape[1])


@look.register
def _(layer: DeformableDETRAttention, x, pixels=()):
    positions, weights = _to_pixels(layer.sampling_points(x)[0], x.shape[2:]), layer.point_weights(x)[0].float()
    return Look([(positions[:, row, column], weights[:, row, column]) for row, column in pixels])


def centers(size, device=None):
    """(H, W, 2) centres of the pixels of a map, (y, x)."""
    axes = (torch.arange(n, device=device) + 0.5 for n in size)
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), -1)


def attend(q, k, positions, bias=None, scale=None):
    """Keys and weights of one query.

    Args:
        q (Tensor): (h, d).
        k (Tensor): (h, K, d).
        positions (Tensor): (K, 2), or (h, K, 2) where heads have keys of their own.
        bias (Tensor | None): (h, K) or (K,).
        scale (float | None): of the logits; None for 1 / sqrt(d).

    Returns:
        tuple[Tensor, Tensor]: (h, K, 2) and (h, K).
    """
    weights = _weights(q[:, None], k, None if bias is None else bias.expand(*k.shape[:2])[:, None], scale)[:, 0]
    return positions.expand(*k.shape[:2], 2), weights


def _weights(q, k, bias=None, scale=None):
    """(h, n, d), (h, K, d), (h or 1 x h, n, K) -> (h, n, K), in float32."""
    logits = q.float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (logits if bias is None else logits + bias.float().view_as(logits)).softmax(-1)


def _to_pixels(points, size):
    """Points as `mmattn.ops.grid.sample` reads them, from -1 and 1 on the centres of the first and last pixel."""
    return (points.float() + 1) / 2 * (points.new_tensor(size, dtype=torch.float32) - 1) + 0.5


def _group_labels(size, group, interval, device):
    labels = torch.zeros(1, *size, 1, dtype=torch.long, device=device)
    first = 0
    for view in group_views(labels, group, interval):
        count = view.shape[1:5].numel()
        view.copy_(torch.arange(first, first + count, device=device).view(1, *view.shape[1:5], 1, 1, 1))
        first += count
    return labels[0, ..., 0]
