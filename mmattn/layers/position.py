"""Where things are: biases by displacement, and encodings by convolution. Nothing is kept between two calls, so that
parameters count as they are, whoever wrote to them."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmattn.checks import check_at_least, check_kernel
from mmattn.layers.describe import arguments_repr
from mmattn.layers.norm import LayerNorm2d
from mmattn.layers.precision import in_float32


class DynamicPositionBias(nn.Module):
    """Dynamic position bias (DPB; CrossFormer, Wang et al., ICLR 2022, eq. 2): a small network from the displacement
    of a query from a key to the bias of each head, for groups of any size::

        T[p] = network(p)       p: displacement (y, x); a linear map, then three times layer norm, ReLU, linear map

    Args:
        embed_dims: hidden channels.
        num_heads: heads h.

    Shapes:
        size (gy, gx) of a group -> bias table (h, 2 gy - 1, 2 gx - 1), by displacement (y, x), query - key in tokens,
        from -(gy - 1, gx - 1) to (gy - 1, gx - 1).
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(2, embed_dims)]
        for out_dims in (embed_dims, embed_dims, num_heads):
            layers += [nn.LayerNorm(embed_dims), nn.ReLU(), nn.Linear(embed_dims, out_dims)]
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.net = nn.Sequential(*layers)

    def forward(self, size: Sequence[int]) -> Tensor:
        like = next(self.net.parameters())
        y, x = (torch.arange(1 - side, side, device=like.device, dtype=like.dtype) for side in size)
        displacement = torch.stack(torch.meshgrid(y, x, indexing='ij'), -1)
        return in_float32(self.net, displacement).permute(2, 0, 1)

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads')


class PositionBiasTable(nn.Module):
    """A parameter per head and displacement (Swin, eq. 4); the ablation of the CrossFormer paper.

    Args:
        group_size: side of the largest group.
        num_heads: heads h.

    Shapes:
        size (gy, gx) of a group -> bias table (h, 2 gy - 1, 2 gx - 1), by displacement (y, x), query - key in tokens;
        displacements beyond the parameters take those of the border.
    """

    def __init__(self, group_size: int, num_heads: int) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_heads = num_heads
        self.table = nn.Parameter(torch.empty(num_heads, 2 * group_size - 1, 2 * group_size - 1))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, size: Sequence[int]) -> Tensor:
        last = self.group_size - 1
        y, x = (torch.arange(1 - side, side, device=self.table.device).clamp(-last, last) + last for side in size)
        return self.table[:, y[:, None], x]

    def extra_repr(self) -> str:
        return arguments_repr(self, 'group_size', 'num_heads')


class LocallyEnhancedPositionEncoding(nn.Conv2d):
    """Locally enhanced position encoding (LePE; CSWin, Dong et al., CVPR 2022, eq. 9): a depth-wise convolution, which
    attention adds to its output.

    Args:
        embed_dims: channels C.
        kernel_size: side of the kernels, odd.

    Shapes:
        (B, H, W, C) -> (B, H, W, C), channels last.

    Raises:
        ArgumentError: an even kernel.
    """

    def __init__(self, embed_dims: int, kernel_size: int) -> None:
        check_kernel('lepe_kernel_size', kernel_size)
        super().__init__(embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConditionalPositionEncoding(nn.Module):
    """Adds a normalised 3 x 3 depth-wise convolution of the map to the map (CPE; Chu et al., arXiv:2102.10882)::

        y = x + LayerNorm(convolution of x)

    Args:
        embed_dims: channels C.
        rows: None for a kernel per channel. The code of CrossFormer convolves the plane of columns and channels with a
            kernel per row instead; this many rows have one, and other maps take the nearest.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, embed_dims: int, rows: int | None = None) -> None:
        super().__init__()
        check_at_least('embed_dims', embed_dims, 1)
        if rows is not None:
            check_at_least('rows', rows, 1)
        self.embed_dims = embed_dims
        self.rows = rows
        planes = rows or embed_dims
        self.conv = nn.Conv2d(planes, planes, 3, padding=1, groups=planes)
        self.norm = LayerNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        if self.rows is None:
            return x + self.norm(self.conv(x))
        height = x.shape[2]
        kernel = torch.arange(height, device=x.device) * self.rows // height
        weight, bias = self.conv.weight[kernel], self.conv.bias[kernel]     # type: ignore[index]
        y = F.conv2d(x.permute(0, 2, 3, 1), weight, bias, padding=1, groups=height)
        return x + self.norm(y.permute(0, 3, 1, 2))

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims')
