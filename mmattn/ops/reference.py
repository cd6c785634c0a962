"""The formulas written out, slow and obvious: what tests and benchmarks compare with. Never chosen by itself, but where
a table of implementations names it as its fallback."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mmattn.ops.dispatch import are_symbols
from mmattn.ops.partition import ceil_div, crop, pad_to_size, window_merge, window_partition


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v. Shapes as in `mmattn.ops.attention.attention`."""
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1).to(v.dtype) @ v


def bilinear(x: Tensor, points: Tensor) -> Tensor:
    """x(p) = sum over pixels r of max(0, 1 - |p_y - r_y|) max(0, 1 - |p_x - r_x|) x(r) (DAT, eq. 6).

    Args:
        x: (B, C, H, W).
        points: (B, ..., 2), (y, x); -1 and 1 are the centres of the first and last pixel.

    Returns:
        (B, C, ...).
    """
    batch, channels, height, width = x.shape
    flat = (points.reshape(batch, -1, 2) + 1) / 2 * points.new_tensor([height - 1, width - 1])
    weight_y = (1 - (flat[..., :1] - torch.arange(height, device=x.device)).abs()).clamp(min=0)      # (B, P, H)
    weight_x = (1 - (flat[..., 1:] - torch.arange(width, device=x.device)).abs()).clamp(min=0)       # (B, P, W)
    out = torch.einsum('bph, bchw, bpw -> bcp', weight_y, x, weight_x)
    return out.reshape(batch, channels, *points.shape[1:-1])


def deformable_attention(q: Tensor, k: Tensor, v: Tensor, points: Tensor, table: Tensor, queries: Tensor) -> Tensor:
    """Deformable attention head by head.

    Args:
        q: (B, h, N, d) queries.
        k, v: (B, h, K, d) keys and values.
        points: (B, G, K, 2), (y, x) normalised.
        table: (h, Ty, Tx), added to the logits by displacement query - point, (y, x) normalised: entries spread evenly
            from -2 to 2 on each axis, the middle is displacement zero; zero outside.
        queries: (N, 2) positions, (y, x) normalised.

    Returns:
        (B, h, N, d).
    """
    heads, groups = q.shape[1], points.shape[1]
    out = []
    for head in range(heads):
        group = head // (heads // groups)
        displacement = (queries[None, :, None] - points[:, group, None]) / 2        # (B, N, K, 2)
        bias = bilinear(table[head].expand(len(q), 1, -1, -1), displacement)[:, 0]
        out.append(attention(q[:, head], k[:, head], v[:, head], bias))
    return torch.stack(out, 1)


def window_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, window: Sequence[int], shift: int = 0) -> Tensor:
    """Attention inside windows, one query at a time.

    Args:
        q, k, v: (h, H, W, d), H and W multiples of the window.
        table: (2 height - 1, 2 width - 1, h), heads last as Swin keeps them, added to the logits by displacement
            query - key, (y, x) in tokens; the middle is displacement zero.
        window: (height, width).
        shift: windows start at (shift, shift), those cut by the border are left cut.

    Returns:
        (h, H, W, d).
    """
    heads, height, width, _ = q.shape
    out = torch.empty_like(q)
    for y in range(height):
        for x in range(width):
            rows = [r for r in range(height) if (r - shift) // window[0] == (y - shift) // window[0]]
            cols = [c for c in range(width) if (c - shift) // window[1] == (x - shift) // window[1]]
            keys = [(r, c) for r in rows for c in cols]
            for head in range(heads):
                index = tuple(zip(*keys))
                bias = torch.stack([table[y - r + window[0] - 1, x - c + window[1] - 1, head] for r, c in keys])
                out[head, y, x] = attention(q[head, y, x][None], k[head][index], v[head][index], bias)[0]
    return out


def routed_attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, num_heads: int, scale: float,
                     route_weights: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
    """Routed attention with keys and values of all routes gathered from an expanded view, as BiFormer's code has it;
    arguments as in `mmattn.ops.routing.routed_attention`."""
    batch, *grid, count = routes.shape
    size = q.shape[1:3]

    def regions(t: Tensor) -> Tensor:                                                   # -> (B, R, tokens, ...)
        return window_partition(t, (t.shape[1] // grid[0], t.shape[2] // grid[1]))

    def gather(t: Tensor) -> Tensor:
        index = routes.view(batch, -1, count, 1, 1).expand(-1, -1, -1, *t.shape[2:])
        return t[:, None].expand(-1, t.shape[1], *t.shape[1:]).gather(2, index)             # (B, R, k, M, ...)

    q, k, v = regions(q), gather(regions(k)), gather(regions(v))
    if route_weights is not None:
        k, v = (t * route_weights.flatten(1, 2)[..., None, None] for t in (k, v))
    out = []
    for q_h, k_h, v_h in zip(*(t.chunk(num_heads, -1) for t in (q, k.flatten(2, 3), v.flatten(2, 3)))):
        logits = q_h * scale @ k_h.transpose(2, 3)
        if key_mask is not None:
            mask = gather(regions(key_mask.expand(batch, -1, -1)[..., None]))
            logits = logits.masked_fill(~mask.flatten(2)[:, :, None], -torch.inf)
        out.append(logits.softmax(-1) @ v_h)
    return window_merge(torch.cat(out, -1), (size[0] // grid[0], size[1] // grid[1]), size)


def grouped_attention(x: Tensor, qkv: tuple[Tensor, Tensor | None], proj: tuple[Tensor, Tensor | None], table: Tensor,
                      num_heads: int, interval: int = 1) -> Tensor:
    """Attention inside groups of a map completed with zeros, whose keys are masked, as CrossFormer's code has it;
    arguments as in `mmattn.ops.grouped.grouped_attention`."""
    height, width = x.shape[1:3]
    q, k, v = F.linear(x, *qkv).chunk(3, -1)
    group = [side // 2 + 1 for side in table.shape[1:]]
    rows, columns = (_squares(side, tokens, interval) for side, tokens in zip((height, width), group))
    size = rows * group[0] * interval, columns * group[1] * interval
    names = dict(ry=rows, rx=columns, gy=group[0], gx=group[1], iy=interval, ix=interval, h=num_heads)

    def groups(t: Tensor) -> Tensor:
        return rearrange(pad_to_size(t, size),
                         'b (ry gy iy) (rx gx ix) (h d) -> b (ry iy rx ix) h (gy gx) d', **names)

    real = groups(q.new_ones(1, height, width, num_heads)).mT > 0                           # (1, G, h, 1, n)
    y, x = (torch.arange(tokens, device=x.device) for tokens in group)
    away_y, away_x = y[:, None] - y + group[0] - 1, x[:, None] - x + group[1] - 1
    bias = table[:, away_y[:, None, :, None], away_x[:, None]].flatten(3).flatten(1, 2)             # (h, n, n)
    bias = bias.masked_fill(~real, torch.finfo(bias.dtype).min / 4)         # finite: a group may have no pixel
    out = attention(groups(q), groups(k), groups(v), bias)
    out = rearrange(out, 'b (ry iy rx ix) h (gy gx) d -> b (ry gy iy) (rx gx ix) (h d)', **names)
    return F.linear(crop(out, height, width), *proj)


def _squares(side: int, tokens: int, interval: int) -> int:
    """How many groups lie behind each other along a side."""
    if are_symbols((tokens,)) and tokens == ceil_div(side, interval):       # of a symbol by another, it would be one
        return 1
    return ceil_div(side, tokens * interval)


def centred_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Strided convolution; arguments as in `mmattn.ops.convolution.centred_convolution`. Channels last, its backward
    pass would be slow beyond measure."""
    return F.conv2d(x.contiguous(), weight, bias, stride, (weight.shape[-1] - stride) // 2)


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, kernel_size: int) -> Tensor:
    """Neighbourhood attention, one query at a time.

    Args:
        q, k, v: (..., h, H, W, d).
        table: (h, 2 kernel_size - 1, 2 kernel_size - 1), added to the logits by displacement key - query, (y, x) in
            pixels; the middle is displacement zero.
        kernel_size: side of the window, odd. Where the map is smaller, the window is as large as the map.

    Returns:
        (..., h, H, W, d).
    """
    heads, height, width, _ = q.shape[-4:]

    def window(i: int, side: int) -> range:
        size = min(kernel_size, side)
        start = min(max(i - kernel_size // 2, 0), side - size)
        return range(start, start + size)

    out = torch.empty_like(q)
    for y in range(height):
        for x in range(width):
            keys = [(r, c) for r in window(y, height) for c in window(x, width)]
            rows, columns = zip(*keys)
            for head in range(heads):
                bias = torch.stack([table[head, r - y + kernel_size - 1, c - x + kernel_size - 1] for r, c in keys])
                q_h, k_h, v_h = q[..., head, y, x, :], k[..., head, rows, columns, :], v[..., head, rows, columns, :]
                out[..., head, y, x, :] = attention(q_h[..., None, :], k_h, v_h, bias)[..., 0, :]
    return out
