"""Pixels and normalised coordinates, in float32 whatever the precision around them.

A point is (y, x). Normalised coordinates put -1 and 1 on the centres of the first and last pixel when an image
is read (`sample`). The two generations of DAT place their reference points on that scale differently:

=============  =====================================  ===============================
convention     reference of key i of n                 reference of query i of n
=============  =====================================  ===============================
``'dat'``      2 (i + 0.5) / n - 1                     2 (i + 0.5) / n - 1
``'dat_pp'``   2 (i + 0.5) / (n - 1) - 1               2 i / (n - 1) - 1
=============  =====================================  ===============================

so 'dat' (CVPR 2022) counts -1 as the outer edge of the first pixel, and 'dat_pp' (DAT++) shifts every key by half
a cell. Published weights need the convention that they were trained with.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmattn.checks import check_choice

CONVENTIONS = ('dat', 'dat_pp')


def check_convention(convention: str) -> None:
    """Raise ArgumentError unless `convention` is one of `CONVENTIONS`."""
    check_choice('convention', convention, CONVENTIONS)


def spans(size: Sequence[int], convention: str) -> tuple[int, ...]:
    """Number of cells that the range [-1, 1] covers along each side.

    Args:
        size: (height, width) of a map.
        convention: 'dat' counts pixels, 'dat_pp' the gaps between them. At least 1 either way.

    Returns:
        cells along y and x.
    """
    check_convention(convention)
    return tuple(n if convention == 'dat' else max(n - 1, 1) for n in size)


def key_grid(size: Sequence[int], convention: str, device: torch.device | None = None) -> Tensor:
    """Reference points of the keys, one per cell of a (height, width) grid.

    Returns:
        (height, width, 2) float32, (y, x) in normalised coordinates.
    """
    return _grid(size, 0.5, convention, device)


def query_grid(size: Sequence[int], convention: str, device: torch.device | None = None) -> Tensor:
    """Positions of the queries of a (height, width) map, as the position bias counts them.

    Returns:
        (height, width, 2) float32, (y, x) in normalised coordinates.
    """
    return _grid(size, 0.5 if convention == 'dat' else 0.0, convention, device)


def _grid(size: Sequence[int], start: float, convention: str, device: torch.device | None) -> Tensor:
    axes = [(torch.arange(n, dtype=torch.float32, device=device) + start) / span * 2 - 1
            for n, span in zip(size, spans(size, convention))]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1)


def sample(x: Tensor, points: Tensor) -> Tensor:
    """Read a map at points by bilinear interpolation; outside the map it is zero.

    Where PyTorch is told to use deterministic algorithms, made of gathers instead of `grid_sample`, which has none for
    its backward pass on CUDA.

    Args:
        x: (B, C, H, W).
        points: (B, Hk, Wk, 2), (y, x) normalised; -1 and 1 are the centres of the first and last pixel.

    Returns:
        (B, C, Hk, Wk), in the dtype of `x`.
    """
    return sample_flipped(x, points.flip(-1))


def sample_flipped(x: Tensor, points: Tensor) -> Tensor:
    """`sample` at points (x, y)."""
    if torch.are_deterministic_algorithms_enabled():
        return _gather_corners(x.to(points.dtype), points.flip(-1)).to(x.dtype)
    return F.grid_sample(x.to(points.dtype), points, mode='bilinear', align_corners=True).to(x.dtype)


def _gather_corners(x: Tensor, points: Tensor) -> Tensor:
    """The four pixels around each point, weighted; shapes as in `sample`."""
    size = torch.cat([torch.full((1,), side, device=x.device) for side in x.shape[2:]])
    pixels = (points.flatten(1, 2) + 1) / 2 * (size - 1)                                # (B, Hk Wk, 2)
    first = pixels.detach().floor()
    share = pixels - first
    out = x.new_zeros(())
    for corner in torch.cartesian_prod(*torch.arange(2, device=x.device).expand(2, 2)):
        pixel = first.long() + corner
        weight = torch.where(corner == 1, share, 1 - share).prod(-1)                    # (B, Hk Wk)
        weight = weight.masked_fill(((pixel < 0) | (pixel >= size)).any(-1), 0)
        row, column = torch.minimum(pixel.clamp(min=0), size - 1).unbind(-1)
        index = (row * x.shape[3] + column)[:, None].expand(-1, x.shape[1], -1)
        out = out + x.flatten(2).gather(2, index) * weight[:, None]
    return out.unflatten(2, points.shape[1:3])
