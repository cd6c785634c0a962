import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from mmattn.checks import (
    check_at_least,
    check_choice,
    check_divides,
    check_map,
    check_number,
    check_rate,
    check_size,
)
from mmattn.layers.norm import LayerNorm2d
from mmattn.layers.precision import in_float32
from mmattn.ops.attention import attention, attention_in_blocks
from mmattn.ops.deformable import (
    deform_points,
    deformable_attention,
    log_displacements,
    position_bias,
    resize_fixed_bias,
    sample_groups,
)
from mmattn.ops.grid import check_convention, query_grid

POSITION_BIASES = ('table', 'log_cpb', 'fixed', 'depthwise', 'none')


class DeformableAttention(nn.Module):
    """Deformable attention (Xia et al., CVPR 2022, eqs. 2 to 7): keys and values are sampled at points that the
    queries choose together.

    A small network reads the queries and moves a uniform grid of points, a different one for each group of
    channels; keys and values are projected from the features sampled there; every query attends to all of them
    with a bias for the position of the point relative to the query.

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads h, must divide C.
        offset_groups (int): groups G with points of their own, must divide h.
        stride (int): pixels of the map per sampled point, along each side.
        offset_kernel_size (int): depth-wise kernel of the offset network, padded by half of it, or with 'dat_pp'
            not at all where it equals the stride.
        offset_range_factor (float): s >= 0 bounds offsets to s cells; negative keeps the points in the image.
            See `mmattn.ops.deformable.deform_points`.
        offsets (bool): False leaves the points on the uniform grid and averages the pixels of each cell.
        position_bias (str): 'table' reads a table at the displacement of query and point; 'log_cpb' puts the
            log-spaced displacement through a small network (DAT++); 'fixed' holds a number per query and point;
            'depthwise' adds a depth-wise convolution of the queries to the output; 'none'.
        table_size (tuple[int, int] | int): map size for which the bias is made. The table has one entry per
            displacement, (2 height - 1) x (2 width - 1); other sizes interpolate in it.
        convention (str): coordinate convention, 'dat' or 'dat_pp' (see `mmattn.ops.grid`).
        attn_drop_rate (float): dropout of attention weights.
        drop_rate (float): dropout of the output.
        backend (str | None): what computes attention with a table: 'separable', 'dense', 'flex', or None for the
            fastest that can run (see `mmattn.ops.deformable.deformable_attention`).

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: heads do not divide the channels, groups do not divide the heads, unknown convention or position
            bias, a backend that cannot run.

    Example:
        >>> attn = DeformableAttention(96, num_heads=3, offset_groups=3, table_size=14)
        >>> attn(torch.rand(2, 96, 20, 31)).shape
        torch.Size([2, 96, 20, 31])
    """

    def __init__(self, embed_dims, num_heads, offset_groups=1, stride=1, offset_kernel_size=5, offset_range_factor=2.0,
                 offsets=True, position_bias='table', table_size=14, convention='dat', attn_drop_rate=0.0,
                 drop_rate=0.0, backend=None):
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_divides('num_heads', num_heads, 'offset_groups', offset_groups)
        check_convention(convention)
        check_choice('position_bias', position_bias, POSITION_BIASES)
        check_at_least('stride', stride, 1)
        check_at_least('offset_kernel_size', offset_kernel_size, 1)
        check_number('offset_range_factor', offset_range_factor)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        height, width = check_size('table_size', table_size)
        self.num_heads = num_heads
        self.offset_groups = offset_groups
        self.stride = stride
        self.offset_range_factor = offset_range_factor
        self.position_bias = position_bias
        self.convention = convention
        self.attn_drop_rate = attn_drop_rate
        self.backend = backend
        self.offset = self._offset_network(embed_dims // offset_groups, offset_kernel_size) if offsets else None
        self.proj_q = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_k = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_v = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_out = nn.Conv2d(embed_dims, embed_dims, 1)
        self.drop = nn.Dropout(drop_rate)
        if position_bias == 'table':
            self.rpe_table = nn.Parameter(torch.empty(num_heads, 2 * height - 1, 2 * width - 1))
        elif position_bias == 'fixed':
            keys = max(height // stride, 1) * max(width // stride, 1)
            self.rpe_table = nn.Parameter(torch.empty(num_heads, height * width, keys))
        elif position_bias == 'log_cpb':
            self.rpe_mlp = nn.Sequential(nn.Linear(2, 32), nn.ReLU(),
                                         nn.Linear(32, num_heads // offset_groups, bias=False))
        elif position_bias == 'depthwise':
            self.rpe_conv = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        if position_bias in ('table', 'fixed'):
            nn.init.trunc_normal_(self.rpe_table, std=0.01)

    def _offset_network(self, dims, kernel_size):
        padding = 0 if kernel_size == self.stride and self.convention == 'dat_pp' else kernel_size // 2
        return nn.Sequential(
            nn.Conv2d(dims, dims, kernel_size, self.stride, padding, groups=dims),
            LayerNorm2d(dims),
            nn.GELU(),
            nn.Conv2d(dims, 2, 1, bias=False))

    def sampling_points(self, q):
        """Where the keys are sampled; in float32 whatever the precision around it.

        Args:
            q (Tensor): (B, C, H, W) projected queries.

        Returns:
            tuple[Tensor, Tensor]: points (B, G, Hk, Wk, 2) and references (Hk, Wk, 2), (y, x) normalised.
        """
        if self.offset is None:
            size = [-(-side // self.stride) for side in q.shape[2:]]
            return deform_points(q.new_zeros(len(q), self.offset_groups, *size, 2), self.offset_range_factor,
                                 self.convention)
        q = rearrange(q, 'b (g c) h w -> (b g) c h w', g=self.offset_groups)
        conv = self.offset[0]
        bottom, right = (max(k - 2 * p - side, 0) for k, p, side in zip(conv.kernel_size, conv.padding, q.shape[2:]))
        offsets = in_float32(self.offset, F.pad(q, (0, right, 0, bottom)))
        offsets = rearrange(offsets, '(b g) p h w -> b g h w p', g=self.offset_groups)
        return deform_points(offsets, self.offset_range_factor, self.convention)

    def projections(self, x):
        """Queries (B, h, H, W, d), keys and values (B, h, Hk, Wk, d), and the points and references of the keys (see
        `sampling_points`) of a map (B, C, H, W)."""
        q = in_float32(self.proj_q, x)
        points, references = self.sampling_points(q)
        if self.offset is None:
            sampled = F.avg_pool2d(x, self.stride, self.stride, ceil_mode=True)
        else:
            sampled = sample_groups(x, points)
        k, v = self.proj_k(sampled), self.proj_v(sampled)
        q, k, v = (rearrange(t, 'b (h d) y x -> b h y x d', h=self.num_heads) for t in (q.to(k.dtype), k, v))
        return q, k, v, points, references

    def bias(self, size, points):
        """What position adds to the logits.

        Args:
            size (tuple[int, int]): (H, W) of the map of queries.
            points (Tensor): (B, G, Hk, Wk, 2), see `sampling_points`.

        Returns:
            Callable[[slice], Tensor] | None: from n of the H W queries, row by row, to (B or 1, h, n, K) for K = Hk Wk
            keys; None where nothing is added.
        """
        if self.position_bias in ('none', 'depthwise'):
            return None
        points = points.flatten(2, 3)
        if self.position_bias == 'fixed':
            table = resize_fixed_bias(self.rpe_table, size[0] * size[1], points.shape[2])
            return lambda queries: table[None, :, queries]
        grid = query_grid(size, self.convention, points.device).to(points.dtype).flatten(0, 1)
        if self.position_bias == 'table':
            return lambda queries: position_bias(self.rpe_table, grid[queries], points)
        return lambda queries: rearrange(in_float32(self.rpe_mlp, log_displacements(grid[queries], points)),
                                         'b g n k h -> b (g h) n k')

    def forward(self, x):
        check_map(x, self.proj_v.in_channels, self.proj_v.weight.dtype)
        q, k, v, points, _ = self.projections(x)
        out = rearrange(self._attend(q, k, v, points), 'b h y x d -> b (h d) y x')
        if self.position_bias == 'depthwise':
            out = out + self.rpe_conv(rearrange(q, 'b h y x d -> b (h d) y x'))
        return self.drop(self.proj_out(out))

    def _attend(self, q, k, v, points):
        """q (B, h, H, W, d), k and v (B, h, Hk, Wk, d), points (B, G, Hk, Wk, 2) -> (B, h, H, W, d)."""
        dropout = self.attn_drop_rate if self.training else 0.0
        if self.position_bias == 'table':
            return deformable_attention(q, k, v, points, self.rpe_table, self.convention, dropout, self.backend)
        size = q.shape[2:4]
        q, k, v = (t.flatten(2, 3) for t in (q, k, v))
        bias = self.bias(size, points)
        if self.position_bias == 'log_cpb':
            out = attention_in_blocks(q, k, v, bias, dropout)
        else:
            out = attention(q, k, v, bias and bias(slice(None)), dropout)
        return out.unflatten(2, size)
