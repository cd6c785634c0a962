from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmattn.checks import check_at_least, check_each, check_map
from mmattn.errors import ArgumentError
from mmattn.layers.describe import arguments_repr
from mmattn.ops.convolution import centred_convolution
from mmattn.ops.partition import ceil_div, pad


class CrossScaleEmbedding(nn.Module):
    """Cross-scale embedding (CEL; CrossFormer, Wang et al., ICLR 2022, section 3.1): convolutions of several kernel
    sizes and one stride, whose channels lie side by side; larger kernels get fewer channels::

        y = concat of the convolutions of x, all centred on the same stride x stride pixels

    Args:
        in_channels: channels of the map or image.
        out_channels: channels C of all convolutions together. The first has C / 2, the next C / 4 and so on; the last
            as many as the one before it.
        kernel_sizes: ascending; the first is at least the stride.
        stride: of every convolution.

    Shapes:
        (B, in_channels, H, W) -> (B, C, H / stride, W / stride); sides are rounded up, over zeros.

    Raises:
        ArgumentError: kernels smaller than the stride or that differ from it by an odd number, channels that cannot be
            split.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_sizes: Sequence[int],
                 stride: int) -> None:
        super().__init__()
        check_at_least('in_channels', in_channels, 1)
        check_at_least('out_channels', out_channels, 1)
        check_at_least('stride', stride, 1)
        check_each('kernel_sizes', kernel_sizes, 1)
        count = len(kernel_sizes)
        if any(kernel < stride or (kernel - stride) % 2 for kernel in kernel_sizes):
            raise ArgumentError(f'kernel_sizes={tuple(kernel_sizes)} must be the stride {stride} or larger by an even '
                                'number')
        if out_channels % 2 ** (count - 1):
            raise ArgumentError(f'out_channels={out_channels} is not divisible by {2 ** (count - 1)}, for the '
                                f'{count} kernel_sizes={tuple(kernel_sizes)}')
        channels = [out_channels // 2 ** min(i + 1, count - 1) for i in range(count)]
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_sizes = tuple(kernel_sizes)
        self.stride = stride
        self.convs = nn.ModuleList(nn.Conv2d(in_channels, c, kernel, stride, (kernel - stride) // 2)
                                   for c, kernel in zip(channels, kernel_sizes))

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.in_channels, next(self.convs.parameters()).dtype)
        bottom, right = (ceil_div(side, self.stride) * self.stride - side for side in x.shape[2:])
        x = pad(x, (0, right, 0, bottom))
        return torch.cat([self._convolve(x, conv) for conv in self.convs], 1)

    def _convolve(self, x: Tensor, conv: Any) -> Tensor:
        if conv.kernel_size[0] <= 2 * self.stride:
            return conv(x)
        return centred_convolution(x, conv.weight, conv.bias, self.stride)

    def extra_repr(self) -> str:
        return arguments_repr(self, 'in_channels', 'out_channels', 'kernel_sizes', 'stride')
