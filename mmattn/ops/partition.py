"""Maps cut into windows and put together again; every function has its exact inverse beside it."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mmattn.ops.dispatch import are_symbols


def ceil_div(length: int, part: int) -> int:
    """How many parts cover a length. Of numbers that are not negative, as ONNX rounds towards zero."""
    return (length + part - 1) // part


def pad_to_multiple(x: Tensor, window: Sequence[int]) -> Tensor:
    """Zero-pad a channels-last map at the bottom and right until `window` divides both sides.

    Args:
        x: (B, H, W, C).
        window: (height, width) of a window.

    Returns:
        (B, H', W', C); `crop` to undo.
    """
    return pad_to_size(x, tuple(ceil_div(side, part) * part for side, part in zip(x.shape[1:3], window)))


def pad_to_size(x: Tensor, size: Sequence[int]) -> Tensor:
    """Zero-pad a channels-last map at the bottom and right.

    Args:
        x: (B, H, W, C).
        size: (H', W'), at least (H, W).

    Returns:
        (B, H', W', C); `crop` to undo.
    """
    return pad(x, (0, 0, 0, size[1] - x.shape[2], 0, size[0] - x.shape[1]))


def pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    """`F.pad` with zeros, without a copy where nothing is to be added."""
    return F.pad(x, list(padding)) if are_symbols(padding) or any(padding) else x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of padding: (B, H', W', C) -> (B, H, W, C)."""
    if not are_symbols((height, width)):
        return x[:, :height, :width]
    # A slice asks whether it is the whole.
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    return x.index_select(1, rows).index_select(2, columns)


def window_partition(x: Tensor, window: Sequence[int]) -> Tensor:
    """(B, H, W, C) -> (B, G, N, C): G windows row by row, N tokens of a window row by row."""
    return rearrange(x, 'b (gy wy) (gx wx) c -> b (gy gx) (wy wx) c', wy=window[0], wx=window[1])


def window_merge(windows: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """(B, G, N, C) -> (B, H, W, C), the inverse of `window_partition`; `size` is (H, W)."""
    return rearrange(windows, 'b (gy gx) (wy wx) c -> b (gy wy) (gx wx) c',
                     gy=size[0] // window[0], wy=window[0], wx=window[1])


def group_views(x: Tensor, group: Sequence[int], interval: int = 1) -> list[Tensor]:
    """Near and far groups of a channels-last map (CrossFormer, section 3.2), as views that cover each pixel once.

    Near groups (`interval` 1) are windows; a far group takes every `interval`-th row and column of a square that many
    windows wide. What whole squares leave at the bottom and right makes groups of fewer tokens, of up to two sizes
    along each side.

    Args:
        x: (B, H, W, C).
        group: (height, width) of a whole group in tokens.
        interval: pixels from one token of a group to the next.

    Returns:
        views (B, Ry, Iy, Rx, Ix, gy, gx, C): squares (Ry, Rx), places in a square where a group starts
        (Iy, Ix), tokens of a group (gy, gx); nine at most.
    """
    batch, height, width, channels = x.shape
    of_batch, of_row, of_column, of_channel = x.stride()
    views = []
    for top, squares_y, starts_y, rows in _group_spans(height, group[0], interval):
        for left, squares_x, starts_x, columns in _group_spans(width, group[1], interval):
            views.append(x.as_strided(
                (batch, squares_y, starts_y, squares_x, starts_x, rows, columns, channels),
                (of_batch, group[0] * interval * of_row, of_row, group[1] * interval * of_column, of_column,
                 interval * of_row, interval * of_column, of_channel),
                x.storage_offset() + top * of_row + left * of_column))
    return views


def _group_spans(side: int, group: int, interval: int) -> list[tuple[int, int, int, int]]:
    """(first pixel, squares, starts in a square, tokens of a group) of the groups of equal size along one side."""
    squares, rest = divmod(side, group * interval)
    tokens, longer = divmod(rest, interval)         # the first starts of the last square have one token more
    start = side - rest
    spans = [(0, squares, interval, group), (start, 1, longer, tokens + 1),
             (start + longer, 1, interval - longer, tokens)]
    return [span for span in spans if span[1] * span[2] * span[3]]


def shifted_window_regions(size: Sequence[int], window: Sequence[int], shift: int,
                           device: torch.device | None = None) -> Tensor:
    """Which tokens of a cyclically shifted map were neighbours before the shift.

    After a roll by `-shift`, windows of the last row and column hold tokens from opposite borders. Tokens of one
    window may attend to each other only where this label agrees.

    Args:
        size: (H, W), multiples of `window`.
        window: (height, width) of a window.
        shift: pixels that the map was rolled up and left, smaller than the window.

    Returns:
        (G, N) labels, windows and tokens in the order of `window_partition`.
    """
    def labels(side: int, window_side: int) -> Tensor:
        place = torch.arange(side, device=device)
        return (place >= side - window_side).long() + (place >= side - shift)

    region = labels(size[0], window[0])[:, None] * 3 + labels(size[1], window[1])
    return window_partition(region[None, :, :, None], window)[0, :, :, 0]


def relative_position_index(window: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Flat index of every pair of window tokens into a table over relative positions.

    Returns:
        (N, N) int64 for N = height * width tokens; entry (i, j) is the row of a
        ((2 height - 1)(2 width - 1), heads) table that holds the bias of query i and key j.
    """
    sides = [2 * side - 1 for side in window]
    return relative_bias(torch.arange(sides[0] * sides[1], device=device).view(1, *sides), window)[0]


def relative_bias(table: Tensor, size: Sequence[int]) -> Tensor:
    """Bias of every query and key of a group, from a table by displacement.

    Args:
        table: (h, 2 gy - 1, 2 gx - 1), added to the logits by displacement query - key, (y, x) in tokens; the middle is
            displacement zero.
        size: (gy, gx) of the group.

    Returns:
        (h, N, N) for the N = gy gx queries and keys, row by row.
    """
    return bias_windows(table, size).flip(3, 4).flatten(3).flatten(1, 2)


def bias_windows(table: Tensor, size: Sequence[int]) -> Tensor:
    """The same bias without a copy, for keys that are counted from the last: their index and that of a query add up to
    the displacement, so that each query reads a window of the table.

    Args:
        table, size: as in `relative_bias`.

    Returns:
        (h, gy, gx, gy, gx), a view of the table.
    """
    return table.unfold(1, size[0], 1).unfold(2, size[1], 1)


def sum_antidiagonals(x: Tensor) -> Tensor:
    """(..., n, m) -> (..., n + m - 1): the sum over i + j = 0, 1, ..."""
    rows, columns = x.shape[-2:]
    # In rows that are longer by their number and cut one shorter, what lay on an antidiagonal lies in a column.
    skewed = F.pad(x, (0, rows)).flatten(-2)[..., :rows * (rows + columns - 1)]
    return skewed.unflatten(-1, (rows, rows + columns - 1)).sum(-2)
