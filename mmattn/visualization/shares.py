"""How much of what deformable attention looks at lies inside of a mask."""
from typing import NamedTuple

import torch
from torch import Tensor

from mmattn.errors import ArgumentError
from mmattn.visualization.recording import Record


class Shares(NamedTuple):
    """Shares that lie inside of a mask, from 0 to 1; nan where nothing counts.

    Args:
        area: of the image, what points of uniform density would reach.
        grid: of the reference points, the uniform grid from which the points start.
        points: of the sampled points of all offset groups.
        attention: of the attention that the points receive from all heads.
    """
    area: float
    grid: float
    points: float
    attention: float


def shares_inside(record: Record, mask: Tensor, ignored: Tensor | None = None) -> Shares:
    """Measure one deformable attention layer on one image.

    A point counts for the pixel that it is in. Points outside of the image are outside of the mask; those in ignored
    pixels do not count at all.

    Args:
        record: of a layer with points.
        mask: (H, W) bool, in pixels of the image.
        ignored: (H, W) bool, pixels to leave out, none of them in the mask; None for none.

    Raises:
        ArgumentError: the layer samples no points; the mask is not of the size of the image.
    """
    if record.points is None or record.references is None or record.received is None:
        raise ArgumentError(f'{record.layer}, {record.kind}, samples no points that all queries share')
    size = tuple(record.frame.size or ())
    if tuple(mask.shape) != size:
        raise ArgumentError(f'the mask is of {tuple(mask.shape)} pixels, the image of {size}')
    counted = torch.ones_like(mask) if ignored is None else ~ignored
    # The heads of a group, one after the other, share its points.
    received = record.received.unflatten(0, (len(record.points), -1)).sum(1)

    def share(points: Tensor, weights: Tensor | int) -> float:
        inside, counts = at(mask, points, False), at(counted, points, True)
        return _ratio((weights * inside).sum(), (weights * counts).sum())

    return Shares(_ratio(mask.sum(), counted.sum()), share(record.references, 1), share(record.points, 1),
                  share(record.points, received))


def at(values: Tensor, points: Tensor, outside: float) -> Tensor:
    """Values of an image at points.

    Args:
        values: (H, W).
        points: (..., 2) (x, y), pixel i from i to i + 1.
        outside: value outside of the image.

    Returns:
        (...).
    """
    x, y = points.floor().long().unbind(-1)
    height, width = values.shape
    within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(within, values[y.clamp(0, height - 1), x.clamp(0, width - 1)], outside)


def _ratio(part: Tensor, whole: Tensor) -> float:
    return (part / whole).item()        # nan for 0 / 0
