"""The grid of regions that bi-level routing attention cuts a map into, and the padding that completes it."""
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmattn.ops.dispatch import are_symbols
from mmattn.ops.partition import ceil_div, crop, pad_to_size
from mmattn.ops.routing import region_view


@dataclass(frozen=True)
class Regions:
    """A map of H x W pixels, completed at the bottom and right to Gy x Gx equal regions.

    Args:
        size: (H, W) of the map in pixels.
        grid: (Gy, Gx) regions along each side.
        region: (height, width) of a region in pixels.
    """
    size: tuple[int, int]
    grid: tuple[int, int]
    region: tuple[int, int]

    @classmethod
    def of(cls, size: Sequence[int], count: int, fixed_count: bool) -> 'Regions':
        """The regions of a map.

        Args:
            size: (H, W) of the map.
            count: regions along each side.
            fixed_count: True for exactly `count` regions of ceil(side / count) pixels; False for regions of
                floor(side / count) pixels, at least one, as many as cover the map.
        """
        height, width = size
        if fixed_count:
            return cls((height, width), (count, count), (ceil_div(height, count), ceil_div(width, count)))
        rows, columns = max(height // count, 1), max(width // count, 1)
        return cls((height, width), (ceil_div(height, rows), ceil_div(width, columns)), (rows, columns))

    @property
    def padded_size(self) -> tuple[int, int]:
        """(H', W') of the completed map."""
        return self.grid[0] * self.region[0], self.grid[1] * self.region[1]

    def pad(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C), completed with zeros; a completed map stays as it is."""
        return pad_to_size(x, self.padded_size)

    def crop(self, x: Tensor) -> Tensor:
        """(B, H', W', C) -> (B, H, W, C)."""
        return crop(x, *self.size)

    def real(self, device: torch.device) -> Tensor:
        """(1, H', W') True for the pixels of the map, False for padding."""
        rows, columns = (torch.arange(side, device=device) < most for side, most in zip(self.padded_size, self.size))
        return (rows[:, None] & columns)[None]

    def means(self, x: Tensor) -> Tensor:
        """(B, H', W', C) -> (B, Gy, Gx, C), the mean of each region."""
        if are_symbols(self.region):        # pooling takes none
            return region_view(x, self.grid).mean((3, 4))
        return F.avg_pool2d(x.permute(0, 3, 1, 2), self.region).permute(0, 2, 3, 1)

    def at_most(self, topk: int) -> int:
        """As many regions as there are, at most `topk`; a warning where they are fewer."""
        count = self.grid[0] * self.grid[1]
        if count < topk:
            warnings.warn(f'topk={topk} is more than the {count} regions of this map; all of them are attended to',
                          stacklevel=5)
        return min(topk, count)

    def boxes(self, device: torch.device) -> Tensor:
        """(Gy, Gx, 4) the regions, (top, left, bottom, right) in pixels."""
        y, x = (torch.arange(n, device=device) * side for n, side in zip(self.grid, self.region))
        top, left = torch.meshgrid(y, x, indexing='ij')
        return torch.stack([top, left, top + self.region[0], left + self.region[1]], -1)
