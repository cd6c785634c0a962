"""Convolutions whose kernels are several times their stride."""
from torch import Tensor
from torch.nn import functional as F

from mmattn.ops import reference
from mmattn.ops.dispatch import Implementation, Implementations, for_comparison
from mmattn.ops.partition import ceil_div


def centred_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, backend: str | None = None) -> Tensor:
    """Convolution of patches of `stride` x `stride` pixels and of what surrounds them, zeros outside the map.

    Args:
        x: (B, C, H, W); `stride` divides both sides.
        weight: (O, C, k, k) with k - stride even and not negative.
        bias: (O,).
        stride: side of a patch.
        backend: one of `IMPLEMENTATIONS`; None for the one that the environment variable
            MMATTN_CENTRED_CONVOLUTION names, or else for the first that can run.

    Returns:
        (B, O, H / stride, W / stride).

    Raises:
        ArgumentError: unknown backend.
    """
    return IMPLEMENTATIONS.run(backend, x, weight, bias, stride)


def _patches(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A patch becomes the channels of one pixel; the kernel, completed with zeros to whole patches, has stride 1.
    PyTorch's backward pass of the plain form is a hundred times slower on the CPU for kernels eight times the stride.
    """
    if not len(x):          # `pixel_unshuffle` leaves empty tensors as they are
        return reference.centred_convolution(x, weight, bias, stride)
    margin = (weight.shape[-1] - stride) // 2
    patches = ceil_div(margin, stride)      # on each side of the middle one
    weight = F.pad(weight, (patches * stride - margin,) * 4)
    return F.conv2d(F.pixel_unshuffle(x, stride), F.pixel_unshuffle(weight, stride), bias, padding=patches)


IMPLEMENTATIONS = Implementations('centred_convolution', 'MMATTN_CENTRED_CONVOLUTION', {
    'patches': Implementation(_patches),
    'reference': Implementation(reference.centred_convolution, reservations=for_comparison),
})
