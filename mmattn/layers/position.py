import torch
from torch import nn
from torch.nn import functional as F

from mmattn.checks import check_at_least
from mmattn.layers.norm import LayerNorm2d
from mmattn.layers.precision import in_float32


class DynamicPositionBias(nn.Module):
    """Dynamic position bias (DPB; CrossFormer, Wang et al., ICLR 2022, eq. 2): a small network from the displacement
    of a query from a key to the bias of each head, for groups of any size.

    Args:
        embed_dims (int): hidden channels.
        num_heads (int): heads h.

    Shapes:
        size (gy, gx) of a group -> (h, 2 gy - 1, 2 gx - 1): bias of the displacement (y, x), query - key in tokens,
        from -(gy - 1, gx - 1) to (gy - 1, gx - 1).
    """

    def __init__(self, embed_dims, num_heads):
        super().__init__()
        layers = [nn.Linear(2, embed_dims)]
        for out_dims in (embed_dims, embed_dims, num_heads):
            layers += [nn.LayerNorm(embed_dims), nn.ReLU(), nn.Linear(embed_dims, out_dims)]
        self.net = nn.Sequential(*layers)

    def forward(self, size):
        weight = self.net[0].weight
        y, x = (torch.arange(1 - side, side, device=weight.device, dtype=weight.dtype) for side in size)
        displacement = torch.stack(torch.meshgrid(y, x, indexing='ij'), -1)
        return in_float32(self.net, displacement).permute(2, 0, 1)


class PositionBiasTable(nn.Module):
    """A parameter per head and displacement (Swin, eq. 4); the ablation of the CrossFormer paper.

    Args:
        group_size (int): side of the largest group.
        num_heads (int): heads h.

    Shapes:
        size (gy, gx) of a group -> (h, 2 gy - 1, 2 gx - 1); displacements beyond the table take its border.
    """

    def __init__(self, group_size, num_heads):
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_heads, 2 * group_size - 1, 2 * group_size - 1))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, size):
        last = self.table.shape[-1] // 2
        y, x = (torch.arange(1 - side, side, device=self.table.device).clamp(-last, last) + last for side in size)
        return self.table[:, y[:, None], x]


class ConditionalPositionEncoding(nn.Module):
    """Adds a normalised 3 x 3 depth-wise convolution of the map to the map (CPE; Chu et al., arXiv:2102.10882).

    Args:
        embed_dims (int): channels C.
        rows (int | None): None for a kernel per channel. The code of CrossFormer convolves the plane of columns and
            channels with a kernel per row instead; this many rows have one, and other maps take the nearest.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, embed_dims, rows=None):
        super().__init__()
        check_at_least('embed_dims', embed_dims, 1)
        if rows is not None:
            check_at_least('rows', rows, 1)
        self.rows = rows
        planes = rows or embed_dims
        self.conv = nn.Conv2d(planes, planes, 3, padding=1, groups=planes)
        self.norm = LayerNorm2d(embed_dims)

    def forward(self, x):
        if self.rows is None:
            return x + self.norm(self.conv(x))
        height = x.shape[2]
        kernel = torch.arange(height, device=x.device) * self.rows // height
        y = F.conv2d(x.permute(0, 2, 3, 1), self.conv.weight[kernel], self.conv.bias[kernel], padding=1, groups=height)
        return x + self.norm(y.permute(0, 3, 1, 2))
