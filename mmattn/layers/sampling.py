"""How the keys and values of the regions of bi-level routing attention become fewer, and which of them are real.

Regions are n maps (n, C, y, x); `real` (n, 1, y, x) is False for padding, and None where padding counts as real.
"""
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KV_SAMPLINGS = ('identity', 'ada_avgpool', 'ada_maxpool', 'avgpool', 'maxpool', 'fracpool', 'conv')

Sampled = tuple[Tensor, Tensor | None]      # the regions with fewer pixels, and which of these are real


def sample_regions(sampling: str, x: Tensor, real: Tensor | None, size: int, conv: nn.Conv2d | None = None,
                   training: bool = False) -> Sampled:
    """Sample every region.

    Args:
        sampling: one of `KV_SAMPLINGS`.
        x: (n, C, y, x) keys and values.
        real: (n, 1, y, x), or None.
        size: pixels along a side that the adaptive and fractional ways leave, by which the others shrink a side.
        conv: for 'conv', and given for no other way: depth-wise, with kernel and stride `size`.
        training: whether 'fracpool' is random; no other way is.

    Returns:
        (n, C, y', x') and (n, 1, y', x') or None.
    """
    if sampling == 'identity':
        return x, real
    kernel = tuple(min(size, side) for side in x.shape[2:])
    if conv is not None:
        return _convolve(conv, x, real, kernel)
    if sampling == 'ada_avgpool':
        return _means(partial(F.adaptive_avg_pool2d, output_size=size), x, real)
    if sampling == 'avgpool':
        return _means(partial(F.avg_pool2d, kernel_size=kernel), x, real)
    if sampling == 'ada_maxpool':
        return _maxima(partial(F.adaptive_max_pool2d, output_size=size), x, real)
    if sampling == 'maxpool':
        return _maxima(partial(F.max_pool2d, kernel_size=kernel), x, real)
    return _maxima(_fractional_pool(x, size, training), x, real)


def _means(pool: Callable[[Tensor], Tensor], x: Tensor, real: Tensor | None) -> Sampled:
    """The mean of what is real in each window."""
    if real is None:
        return pool(x), None
    share = pool(real.to(x.dtype))
    return pool(x * real) / share.clamp(min=1e-6), share > 0


def _maxima(pool: Callable[[Tensor], Tensor], x: Tensor, real: Tensor | None) -> Sampled:
    """The largest of what is real in each window; zero where nothing is."""
    if real is None:
        return pool(x), None
    pooled = pool(x.masked_fill(~real, torch.finfo(x.dtype).min))
    real = pool(real.to(x.dtype).expand_as(x))[:, :1] > 0
    return pooled.masked_fill(~real, 0), real


def _convolve(conv: nn.Conv2d, x: Tensor, real: Tensor | None, kernel: tuple[int, ...]) -> Sampled:
    """A convolution of what is real; zeros complete a region that is smaller than its kernel."""
    bottom, right = (max(k - side, 0) for k, side in zip(conv.kernel_size, x.shape[2:]))
    if real is None:
        return conv(F.pad(x, (0, right, 0, bottom))), None
    return conv(F.pad(x * real, (0, right, 0, bottom))), F.max_pool2d(real.to(x.dtype), kernel) > 0


def _fractional_pool(x: Tensor, size: int, training: bool) -> Callable[[Tensor], Tensor]:
    """Fractional max pooling (Graham, 2014) with the same places for every channel, and for whatever it is called with:
    random ones in training, the middle ones outside."""
    height, width = x.shape[2:]
    window = min(2, height), min(2, width)
    left = min(size, height - window[0] + 1), min(size, width - window[1] + 1)
    samples = torch.rand(len(x), 1, 2, device=x.device) if training else x.new_full((len(x), 1, 2), 0.5)
    samples = samples.to(x.dtype).expand(-1, x.shape[1], -1)
    return lambda t: F.fractional_max_pool2d(t, window, left, _random_samples=samples)
