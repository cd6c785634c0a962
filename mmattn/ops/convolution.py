"""Convolutions whose kernels are several times their stride."""
from torch.nn import functional as F

from mmattn.ops import reference
from mmattn.ops.backend import choose_backend

BACKEND_VARIABLE = 'MMATTN_CENTRED_CONVOLUTION'


def centred_convolution(x, weight, bias, stride, backend=None):
    """Convolution of patches of `stride` x `stride` pixels and of what surrounds them, zeros outside the map.

    A patch becomes the channels of one pixel; the kernel, completed with zeros to whole patches, then has stride 1.
    PyTorch's backward pass of the plain form is a hundred times slower on the CPU for kernels eight times the stride.

    Args:
        x (Tensor): (B, C, H, W); `stride` divides both sides.
        weight (Tensor): (O, C, k, k) with k - stride even and not negative.
        bias (Tensor): (O,).
        stride (int): side of a patch.
        backend (str | None): 'patches', or 'reference' for the plain form, which is never chosen by itself; the
            environment variable MMATTN_CENTRED_CONVOLUTION names one too.

    Returns:
        Tensor: (B, O, H / stride, W / stride).

    Raises:
        ValueError: unknown backend.
    """
    name = choose_backend(['patches'], lambda name: [], BACKEND_VARIABLE, backend, ('reference',))
    if name == 'reference' or not len(x):       # `pixel_unshuffle` leaves empty tensors as they are
        return reference.centred_convolution(x, weight, bias, stride)
    margin = (weight.shape[-1] - stride) // 2
    patches = -(-margin // stride)      # on each side of the middle one
    weight = F.pad(weight, (patches * stride - margin,) * 4)
    return F.conv2d(F.pixel_unshuffle(x, stride), F.pixel_unshuffle(weight, stride), bias, padding=patches)
