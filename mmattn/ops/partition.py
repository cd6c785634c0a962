"""Maps cut into windows and put together again; every function has its exact inverse beside it."""
import torch
import torch.nn.functional as F
from einops import rearrange


def pad_to_multiple(x, window):
    """Zero-pad a channels-last map at the bottom and right until `window` divides both sides.

    Args:
        x (Tensor): (B, H, W, C).
        window (tuple[int, int]): (height, width) of a window.

    Returns:
        Tensor: (B, H', W', C); crop `[:, :H, :W]` to undo.
    """
    bottom, right = (-x.shape[1]) % window[0], (-x.shape[2]) % window[1]
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def window_partition(x, window):
    """(B, H, W, C) -> (B, G, N, C): G windows row by row, N tokens of a window row by row."""
    return rearrange(x, 'b (gy wy) (gx wx) c -> b (gy gx) (wy wx) c', wy=window[0], wx=window[1])


def window_merge(windows, window, size):
    """(B, G, N, C) -> (B, H, W, C), the inverse of `window_partition`; `size` is (H, W)."""
    return rearrange(windows, 'b (gy gx) (wy wx) c -> b (gy wy) (gx wx) c',
                     gy=size[0] // window[0], wy=window[0], wx=window[1])


def shifted_window_regions(size, window, shift, device=None):
    """Which tokens of a cyclically shifted map were neighbours before the shift.

    After a roll by `-shift`, windows of the last row and column hold tokens from opposite borders. Tokens of one
    window may attend to each other only where this label agrees.

    Args:
        size (tuple[int, int]): (H, W), multiples of `window`.
        window (tuple[int, int]): (height, width) of a window.
        shift (int): pixels that the map was rolled up and left, smaller than the window.

    Returns:
        Tensor: (G, N) labels, windows and tokens in the order of `window_partition`.
    """
    def labels(side, window_side):
        label = torch.zeros(side, dtype=torch.long, device=device)
        label[side - window_side:side - shift] = 1
        label[side - shift:] = 2
        return label

    region = labels(size[0], window[0])[:, None] * 3 + labels(size[1], window[1])
    return window_partition(region[None, :, :, None], window)[0, :, :, 0]


def relative_position_index(window, device=None):
    """Flat index of every pair of window tokens into a table over relative positions.

    Returns:
        Tensor: (N, N) int64 for N = height * width tokens; entry (i, j) is the row of a
        ((2 height - 1)(2 width - 1), heads) table that holds the bias of query i and key j.
    """
    y, x = torch.meshgrid(*(torch.arange(n, device=device) for n in window), indexing='ij')
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y + window[0] - 1
    dx = x[:, None] - x + window[1] - 1
    return dy * (2 * window[1] - 1) + dx
