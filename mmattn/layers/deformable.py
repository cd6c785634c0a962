from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
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
from mmattn.layers.attended import Attended, attended_points, centers, to_pixels
from mmattn.layers.describe import arguments_repr
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
from mmattn.ops.dispatch import Budget
from mmattn.ops.grid import CONVENTIONS, query_grid
from mmattn.ops.partition import ceil_div

POSITION_BIASES = ('table', 'log_cpb', 'fixed', 'depthwise', 'none')
NETWORK_LOGITS = Budget(cpu=2 ** 22, share=1 / 128)     # of all heads at once, where a network makes the bias


class Projections(NamedTuple):
    """What attention is computed of: queries of H x W pixels, keys and values at Hk x Wk points.

    Args:
        q: (B, h, H, W, d).
        k: (B, h, Hk, Wk, d).
        v: (B, h, Hk, Wk, d).
        points: (B, G, Hk, Wk, 2) where keys and values are sampled, (y, x) normalised.
        references: (Hk, Wk, 2) where they would be without offsets.
    """
    q: Tensor
    k: Tensor
    v: Tensor
    points: Tensor
    references: Tensor


class DeformableAttention(nn.Module):
    """Deformable attention (DAT; Xia et al., CVPR 2022, section 3.2, eqs. 2 to 7): keys and values are sampled at
    points that the queries choose together.

    A small network reads the queries and moves a uniform grid of points, a different one for each group of
    channels; keys and values are projected from the features sampled there; every query attends to all of them
    with a bias for the position of the point relative to the query. For pixel i of a map x, in each head::

        p_j = r_j + s tanh(o_j(q)) / n          q = W_q x;  r: the uniform grid of n x n points;  o: offset network
        z_i = sum_j softmax_j(q_i . k_j / sqrt(d) + T((r_i - p_j) / 2)) v_j         k_j, v_j = W_k x(p_j), W_v x(p_j)
        y   = W_out (concat of the heads' z)

    x(p): the map read at p, bilinearly, in the channels of the group. r_i: position of the query. Coordinates are
    (y, x), -1 to 1. s: offset_range_factor. T: bias table of the head, by displacement, query - key, from -1 to 1, read
    bilinearly; with 'log_cpb' a network of the displacement, with 'fixed' a number for each i and j.

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C.
        offset_groups: groups G with points of their own, must divide h.
        stride: pixels of the map per sampled point, along each side.
        offset_kernel_size: depth-wise kernel of the offset network, padded by half of it, or with 'dat_pp' not at all
            where it equals the stride.
        offset_range_factor: s >= 0 bounds offsets to s cells; negative keeps the points in the image. See
            `mmattn.ops.deformable.deform_points`.
        offsets: False leaves the points on the uniform grid and averages the pixels of each cell.
        position_bias: 'table' reads a table at the displacement of query and point; 'log_cpb' puts the log-spaced
            displacement through a small network (DAT++); 'fixed' holds a number per query and point; 'depthwise' adds
            a depth-wise convolution of the queries to the output; 'none'.
        table_size: map size, (height, width) or one side, for which the bias is made. The table has one entry per
            displacement, (2 height - 1) x (2 width - 1); other sizes interpolate in it.
        convention: coordinate convention, 'dat' or 'dat_pp' (see `mmattn.ops.grid`).
        attn_drop_rate: dropout of attention weights.
        drop_rate: dropout of the output.
        backend: what computes attention with a table; None for the fastest that can run (see
            `mmattn.ops.deformable.deformable_attention`).

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads do not divide the channels, groups do not divide the heads, unknown convention or position
            bias, a backend that cannot run.

    Example:
        >>> attn = DeformableAttention(96, num_heads=3, offset_groups=3, table_size=14)
        >>> attn(torch.rand(2, 96, 20, 31)).shape
        torch.Size([2, 96, 20, 31])
    """

    def __init__(self, embed_dims: int, num_heads: int, *, offset_groups: int = 1, stride: int = 1,
                 offset_kernel_size: int = 5, offset_range_factor: float = 2.0, offsets: bool = True,
                 position_bias: str = 'table', table_size: int | Sequence[int] = 14, convention: str = 'dat',
                 attn_drop_rate: float = 0.0, drop_rate: float = 0.0, backend: str | None = None) -> None:
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_divides('num_heads', num_heads, 'offset_groups', offset_groups)
        check_choice('convention', convention, CONVENTIONS)
        check_choice('position_bias', position_bias, POSITION_BIASES)
        check_at_least('stride', stride, 1)
        check_at_least('offset_kernel_size', offset_kernel_size, 1)
        check_number('offset_range_factor', offset_range_factor)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        height, width = check_size('table_size', table_size)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.offset_groups = offset_groups
        self.stride = stride
        self.offset_kernel_size = offset_kernel_size
        self.offset_range_factor = offset_range_factor
        self.offsets = offsets
        self.table_size = table_size
        self.position_bias = position_bias
        self.convention = convention
        self.attn_drop_rate = attn_drop_rate
        self.backend = backend
        self.offset = self._offset_network(embed_dims // offset_groups) if offsets else None
        self.proj_q = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_k = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_v = nn.Conv2d(embed_dims, embed_dims, 1)
        self.proj_out = nn.Conv2d(embed_dims, embed_dims, 1)
        self.drop = nn.Dropout(drop_rate)
        if position_bias == 'table':
            self.rpe_table = nn.Parameter(torch.empty(num_heads, 2 * height - 1, 2 * width - 1))        # T
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

    @property
    def _offset_padding(self) -> int:
        """On each side of what the offset network reads."""
        kernel = self.offset_kernel_size
        return 0 if kernel == self.stride and self.convention == 'dat_pp' else kernel // 2

    def _offset_network(self, dims: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(dims, dims, self.offset_kernel_size, self.stride, self._offset_padding, groups=dims),
            LayerNorm2d(dims),
            nn.GELU(),
            nn.Conv2d(dims, 2, 1, bias=False))

    def sampling_points(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Where the keys are sampled; in float32 whatever the precision around it.

        Args:
            q: (B, C, H, W) projected queries.

        Returns:
            points (B, G, Hk, Wk, 2) and references (Hk, Wk, 2), (y, x) normalised.
        """
        if self.offset is None:
            size = [ceil_div(side, self.stride) for side in q.shape[2:]]
            return deform_points(q.new_zeros(len(q), self.offset_groups, *size, 2), self.offset_range_factor,
                                 self.convention)
        q = rearrange(q, 'b (g c) h w -> (b g) c h w', g=self.offset_groups)
        bottom, right = (max(self.offset_kernel_size - 2 * self._offset_padding - side, 0) for side in q.shape[2:])
        offsets = in_float32(self.offset, F.pad(q, (0, right, 0, bottom)))
        offsets = rearrange(offsets, '(b g) p h w -> b g h w p', g=self.offset_groups)
        return deform_points(offsets, self.offset_range_factor, self.convention)

    def projections(self, x: Tensor) -> Projections:
        """Queries, keys and values of a map (B, C, H, W), and where the keys are."""
        q = in_float32(self.proj_q, x)
        points, references = self.sampling_points(q)
        if self.offset is None:
            sampled = F.avg_pool2d(x, self.stride, self.stride, ceil_mode=True)
        else:
            sampled = sample_groups(x, points)
        k, v = self.proj_k(sampled), self.proj_v(sampled)
        q, k, v = (rearrange(t, 'b (h d) y x -> b h y x d', h=self.num_heads) for t in (q.to(k.dtype), k, v))
        return Projections(q, k, v, points, references)

    def bias(self, queries: slice, size: Sequence[int], points: Tensor) -> Tensor | None:
        """What position adds to the logits of some queries.

        Args:
            queries: n of the H W queries, row by row.
            size: (H, W) of the map of queries.
            points: (B, G, Hk, Wk, 2), see `sampling_points`.

        Returns:
            (B or 1, h, n, K) for K = Hk Wk keys; None where nothing is added.
        """
        if self.position_bias in ('none', 'depthwise'):
            return None
        if self.position_bias == 'log_cpb':
            return self._network_bias(queries, size, points)
        points = points.flatten(2, 3)
        if self.position_bias == 'fixed':
            return resize_fixed_bias(self.rpe_table, size[0] * size[1], points.shape[2])[None, :, queries]
        return position_bias(self.rpe_table, self._queries(queries, size, points), points)

    def _network_bias(self, queries: slice, size: Sequence[int], points: Tensor) -> Tensor:
        points = points.flatten(2, 3)
        displacements = log_displacements(self._queries(queries, size, points), points)
        return rearrange(in_float32(self.rpe_mlp, displacements), 'b g n k h -> b (g h) n k')

    def _queries(self, queries: slice, size: Sequence[int], points: Tensor) -> Tensor:
        """(n, 2) where they are, (y, x) normalised."""
        return query_grid(size, self.convention, points.device).to(points.dtype).flatten(0, 1)[queries]

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.proj_v.weight.dtype)
        projected = self.projections(x)
        out = rearrange(self._attend(projected), 'b h y x d -> b (h d) y x')
        if self.position_bias == 'depthwise':
            out = out + self.rpe_conv(rearrange(projected.q, 'b h y x d -> b (h d) y x'))
        return self.drop(self.proj_out(out))

    def _attend(self, projected: Projections) -> Tensor:
        """(B, h, H, W, d)."""
        q, k, v, points, _ = projected
        dropout = self.attn_drop_rate if self.training else 0.0
        if self.position_bias == 'table':
            return deformable_attention(q, k, v, points, self.rpe_table, self.convention, dropout, self.backend)
        size = q.shape[2:4]
        q, k, v = (t.flatten(2, 3) for t in (q, k, v))
        if self.position_bias == 'log_cpb':
            out = attention_in_blocks(q, k, v, lambda queries: self._network_bias(queries, size, points), dropout,
                                      logits=NETWORK_LOGITS.on(q.device))
        else:
            out = attention(q, k, v, self.bias(slice(None), size, points), dropout)
        return out.unflatten(2, size)

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`; with all points, and the attention that they receive."""
        size = x.shape[2:]
        q, k, _, points, references = self.projections(x)

        def bias(queries: slice) -> Tensor | None:
            found = self.bias(queries, size, points)
            return None if found is None else found[0]

        if self.offset is None:     # keys are means of cells
            means = F.avg_pool2d(centers(size, x.device).permute(2, 0, 1), self.stride, self.stride, ceil_mode=True)
            references = means.permute(1, 2, 0)
            positions = references.expand(self.offset_groups, -1, -1, -1)
        else:
            positions, references = (to_pixels(t, size) for t in (points[0], references))
        return attended_points(q[0].flatten(1, 2), k[0], pixels, size[1], positions, references, bias)

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'offset_groups', 'position_bias')
