"""Images of a padded batch, each run as if it were alone.

A data preprocessor makes a batch of images of different sizes by padding them with zeros at the bottom and right, and
rounds its sides up. Whatever mixes pixels then sees how large the neighbours of an image are: attention has keys in the
padding, windows and regions are cut from a larger map, coordinates are normalised by its size.
"""
import torch


def content_sizes(x):
    """Size of each image of a padded batch, from its content: up to the last row and column with a value that is not
    zero.

    Args:
        x (Tensor): (B, C, H, W), images padded at the bottom and right with zeros.

    Returns:
        list[tuple[int, int]]: (height, width) of each image in pixels; (H, W) where everything is zero.
    """
    present = (x != 0).any(1)                                                                       # (B, H, W)
    last = torch.stack([(line * torch.arange(1, line.shape[1] + 1, device=x.device)).amax(1)
                        for line in (present.any(2), present.any(1))], 1)
    return [tuple(size) if size[0] else tuple(x.shape[2:]) for size in last.tolist()]


def images_by_size(sizes):
    """Numbers of the images of each size, in the order in which `in_valid_area` runs them: {(h, w): [i, …]}."""
    images = {}
    for i, size in enumerate(sizes):
        images.setdefault(tuple(size), []).append(i)
    return images


def in_valid_area(layer, x, sizes, map_sizes=None):
    """Run a layer on the valid area of each image of a padded batch, on images of equal size together.

    Args:
        layer (Callable[[Tensor], Tensor]): from maps (n, C, h, w) of some of the images; with `map_sizes`, to a
            sequence of maps.
        x (Tensor): (B, C, H, W).
        sizes (Sequence[tuple[int, int]]): (height, width) of the valid area of each image at the top left, in pixels
            of `x`.
        map_sizes (Sequence[tuple[int, int]] | None): (H', W') of the maps that the layer gives for the whole of `x`;
            None for one map of the size of `x`.

    Returns:
        Tensor | tuple[Tensor]: (B, C', H, W), or one (B, C', H', W') for each of `map_sizes`: what the layer gives for
        an image without its padding, at the top left; zeros elsewhere.

    Raises:
        ValueError: another number of sizes than images, or a size that is not inside `x`.

    Example:
        >>> attn = DeformableAttention(96, num_heads=3)
        >>> in_valid_area(attn, torch.rand(2, 96, 20, 31), [(20, 25), (17, 31)]).shape
        torch.Size([2, 96, 20, 31])
    """
    whole = tuple(x.shape[2:])
    if len(sizes) != len(x) or not all(0 < side <= most for size in sizes for side, most in zip(size, whole)):
        raise ValueError(f'sizes={list(sizes)} must be one for each of {len(x)} images, inside {whole}')
    images = images_by_size(sizes)
    if set(images) <= {whole}:
        return layer(x)
    outs = None
    for (height, width), chosen in images.items():
        maps = layer(x[chosen, :, :height, :width])
        maps = [maps] if map_sizes is None else maps
        if outs is None:
            outs = [part.new_zeros(len(x), part.shape[1], *size) for part, size in zip(maps, map_sizes or [whole])]
        for out, part in zip(outs, maps):
            out[chosen, :, :part.shape[2], :part.shape[3]] = part
    return outs[0] if map_sizes is None else tuple(outs)
