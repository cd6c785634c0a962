"""Images of a padded batch, each run as if it were alone.

A data preprocessor makes a batch of images of different sizes by padding them with zeros at the bottom and right, and
rounds its sides up. Whatever mixes pixels then sees how large the neighbours of an image are: attention has keys in the
padding, windows and regions are cut from a larger map, coordinates are normalised by its size.
"""
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from mmattn.errors import ArgumentError


def content_sizes(x: Tensor) -> list[tuple[int, int]]:
    """Size of each image of a padded batch, from its content: up to the last row and column with a value that is not
    zero.

    Args:
        x: (B, C, H, W), images padded at the bottom and right with zeros.

    Returns:
        (height, width) of each image in pixels; (H, W) where everything is zero.
    """
    present = (x != 0).any(1)                                                                       # (B, H, W)
    last = torch.stack([(line * torch.arange(1, line.shape[1] + 1, device=x.device)).amax(1)
                        for line in (present.any(2), present.any(1))], 1)
    whole = x.shape[2], x.shape[3]
    return [(height, width) if height else whole for height, width in last.tolist()]


def images_by_size(sizes: Sequence[Sequence[int]]) -> dict[tuple[int, int], list[int]]:
    """Numbers of the images of each size, in the order in which `in_valid_area` runs them: {(h, w): [i, …]}."""
    images: dict[tuple[int, int], list[int]] = {}
    for i, size in enumerate(sizes):
        height, width = size
        images.setdefault((height, width), []).append(i)
    return images


@overload
def in_valid_area(layer: Callable[[Tensor], Tensor], x: Tensor, sizes: Sequence[Sequence[int]],
                  map_sizes: None = None) -> Tensor: ...


@overload
def in_valid_area(layer: Callable[[Tensor], Sequence[Tensor]], x: Tensor, sizes: Sequence[Sequence[int]],
                  map_sizes: Sequence[Sequence[int]]) -> Sequence[Tensor]: ...


def in_valid_area(layer: Callable[[Tensor], Any], x: Tensor, sizes: Sequence[Sequence[int]],
                  map_sizes: Sequence[Sequence[int]] | None = None) -> Tensor | Sequence[Tensor]:
    """Run a layer on the valid area of each image of a padded batch, on images of equal size together.

    Args:
        layer: from maps (n, C, h, w) of some of the images to a map; with `map_sizes`, to a sequence of maps.
        x: (B, C, H, W).
        sizes: (height, width) of the valid area of each image at the top left, in pixels of `x`.
        map_sizes: (H', W') of the maps that the layer gives for the whole of `x`; None for one map of the size of `x`.

    Returns:
        (B, C', H, W), or one (B, C', H', W') for each of `map_sizes`: what the layer gives for an image without its
        padding, at the top left; zeros elsewhere.

    Raises:
        ArgumentError: another number of sizes than images, or a size that is not inside `x`.

    Example:
        >>> attn = DeformableAttention(96, num_heads=3)
        >>> in_valid_area(attn, torch.rand(2, 96, 20, 31), [(20, 25), (17, 31)]).shape
        torch.Size([2, 96, 20, 31])
    """
    whole = tuple(x.shape[2:])
    if len(sizes) != len(x) or not all(0 < side <= most for size in sizes for side, most in zip(size, whole)):
        raise ArgumentError(f'sizes={list(sizes)} must be one for each of {len(x)} images, inside {whole}')
    images = images_by_size(sizes)
    if set(images) <= {whole}:
        return layer(x)
    outs: list[Tensor] = []
    for (height, width), chosen in images.items():
        maps = layer(x[chosen, :, :height, :width])
        maps = [maps] if map_sizes is None else maps
        if not outs:
            outs = [part.new_zeros(len(x), part.shape[1], *size) for part, size in zip(maps, map_sizes or [whole])]
        for out, part in zip(outs, maps):
            out[chosen, :, :part.shape[2], :part.shape[3]] = part
    return outs[0] if map_sizes is None else tuple(outs)
