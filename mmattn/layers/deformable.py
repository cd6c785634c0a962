import torch
from einops import rearrange
from torch import nn

from mmattn.layers.checks import check_divides
from mmattn.layers.norm import LayerNorm2d
from mmattn.ops.deformable import deform_points, deformable_attention, sample_groups
from mmattn.ops.grid import check_convention


class DeformableAttention(nn.Module):
    """Deformable attention (Xia et al., CVPR 2022, eqs. 2 to 7): keys and values are sampled at points that the
    queries choose together.

    A small network reads the queries and moves a uniform grid of points, a different one for each group of
    channels; keys and values are projected from the features sampled there; every query attends to all of them
    with a position bias read from a table at the displacement of query and point.

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads h, must divide C.
        offset_groups (int): groups G with points of their own, must divide h.
        stride (int): pixels of the map per sampled point, along each side.
        offset_kernel_size (int): depth-wise kernel of the offset network, odd or equal to the stride.
        offset_range_factor (float): s >= 0 bounds offsets to s cells; negative clamps the points to the image.
        table_size (tuple[int, int] | int): map size for which the bias table holds one entry per displacement,
            (2 height - 1) x (2 width - 1) in all. Other sizes interpolate in it.
        convention (str): coordinate convention, 'dat' or 'dat_pp' (see `mmattn.ops.grid`).
        attn_drop_rate (float): dropout of attention weights.
        drop_rate (float): dropout of the output.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: heads do not divide the channels, groups do not divide the heads, unknown convention.

    Example:
        >>> attn = DeformableAttention(96, num_heads=3, offset_groups=3, table_size=14)
        >>> attn(torch.rand(2, 96, 20, 31)).shape
        torch.Size([2, 96, 20, 31])
    """

    def __init__(self, embed_dims, num_heads, offset_groups=1, stride=1, offset_kernel_size=5, offset_range_factor=2.0,
                 table_size=14, convention='dat', attn_drop_rate=0.0, drop_rate=0.0):
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_divides('num_heads', num_heads, 'offset_groups', offset_groups)
        check_convention(convention)
        self.num_heads = num_heads
        self.offset_groups = offset_groups
        self.offset_range_factor = offset_range_factor
        self.convention = convention
        self.attn_drop_rate = attn_drop_rate
        group_dims = embed_dims // offset_groups
        padding = 0 if offset_kernel_size == stride else offset_kernel_size // 2
        self.offset = nn.Sequential(
            nn.Conv2d(group_dims, group_dims, offset_kernel_size, stride, padding, groups=group_dims),
            LayerNorm2d(group_dims),
            nn.GELU(),
            nn.Conv2d(group_dims, 2, 1, bias=False))
        self.proj_q = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_k = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_v = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_out = nn.Conv2d(embed_dims, embed_dims, 1)
        self.drop = nn.Dropout(drop_rate)
        table_h, table_w = (table_size, table_size) if isinstance(table_size, int) else table_size
        self.rpe_table = nn.Parameter(torch.empty(num_heads, 2 * table_h - 1, 2 * table_w - 1))
        nn.init.trunc_normal_(self.rpe_table, std=0.01)

    def sampling_points(self, q):
        """Where the keys are sampled.

        Args:
            q (Tensor): (B, C, H, W) projected queries.

        Returns:
            tuple[Tensor, Tensor]: points (B, G, Hk, Wk, 2) and references (Hk, Wk, 2), (y, x) normalised.
        """
        offsets = self.offset(rearrange(q, 'b (g c) h w -> (b g) c h w', g=self.offset_groups))
        offsets = rearrange(offsets, '(b g) p h w -> b g h w p', g=self.offset_groups)
        return deform_points(offsets, self.offset_range_factor, self.convention)

    def forward(self, x):
        q = self.proj_q(x)
        points, _ = self.sampling_points(q)
        sampled = sample_groups(x, points)
        q, k, v = (rearrange(t, 'b (h d) y x -> b h y x d', h=self.num_heads)
                   for t in (q, self.proj_k(sampled), self.proj_v(sampled)))
        out = deformable_attention(q, k, v, points, self.rpe_table, self.convention,
                                   self.attn_drop_rate if self.training else 0.0)
        return self.drop(self.proj_out(rearrange(out, 'b h y x d -> b (h d) y x')))
