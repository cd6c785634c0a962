from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mmattn.checks import check_divides, check_kernel, check_map, check_rate
from mmattn.layers.attended import Attended, Keys, centers, keys_of
from mmattn.layers.describe import arguments_repr
from mmattn.ops.neighborhood import neighborhood_attention, window_start
from mmattn.ops.partition import crop


class NeighborhoodAttention(nn.Module):
    """Neighbourhood attention with relative position bias (Hassani et al., CVPR 2023, eqs. 2 and 3; the local attention
    of DAT++): each pixel attends to the square of pixels around it, moved inside the map at the borders.

    For pixel i, in each head, over the K x K pixels j of its square::

        z_i = sum_j softmax_j(q_i . k_j / sqrt(d) + T[p_j - p_i]) v_j       q, k, v = W_qkv x
        y   = W_proj (concat of the heads' z)

    p: position (y, x) of a pixel. T: bias table of the head, an entry per displacement, key - query. K: kernel_size.

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C.
        kernel_size: side of the square, odd and at least 3.
        pad_small: True pads a map smaller than the square with zeros at the bottom and right, which take part as keys,
            as in the published models; False uses a square as large as the map.
        attn_drop_rate: dropout of attention weights.
        drop_rate: dropout of the output.
        backend: implementation, see `mmattn.ops.neighborhood.neighborhood_attention`; None for the fastest one that can
            run.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads do not divide the channels; an even or too small kernel; in forward, a backend that is
            unknown or cannot run.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, kernel_size: int = 7, pad_small: bool = True,
                 attn_drop_rate: float = 0.0, drop_rate: float = 0.0, backend: str | None = None) -> None:
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_kernel('kernel_size', kernel_size, 3)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.pad_small = pad_small
        self.attn_drop_rate = attn_drop_rate
        self.backend = backend
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.rpb = nn.Parameter(torch.empty(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))       # T
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)
        nn.init.trunc_normal_(self.rpb, std=0.02)

    def projections(self, x: Tensor) -> Tensor:
        """Queries, keys and values (3, B, h, H', W', d) of a map (B, C, H, W), padded to (H', W') if it is small."""
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)
        if self.pad_small:
            x = F.pad(x, (0, 0, 0, max(self.kernel_size - width, 0), 0, max(self.kernel_size - height, 0)))
        return rearrange(self.qkv(x), 'b y x (three h d) -> three b h y x d', three=3, h=self.num_heads)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.proj.weight.dtype)
        height, width = x.shape[2:]
        q, k, v = self.projections(x)
        out = neighborhood_attention(q, k, v, self.rpb, self.kernel_size,
                                     self.attn_drop_rate if self.training else 0.0, self.backend)
        out = crop(rearrange(out, 'b h y x d -> b y x (h d)'), height, width)
        return self.drop(self.proj(out)).permute(0, 3, 1, 2)

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`."""
        q, k, _ = self.projections(x)[:, 0]
        size, kernel = q.shape[1:3], self.kernel_size
        positions = centers(size, x.device)

        def keys(row: int, column: int) -> Keys:
            starts = [window_start(i, side, kernel) for i, side in zip((row, column), size)]
            ends = [min(start + kernel, side) for start, side in zip(starts, size)]
            y, x = (slice(start, end) for start, end in zip(starts, ends))
            of_y, of_x = (slice(start - i + kernel - 1, end - i + kernel - 1)       # in the table
                          for start, end, i in zip(starts, ends, (row, column)))
            return keys_of(q[:, row, column], k[:, y, x].flatten(1, 2), positions[y, x].flatten(0, 1),
                           self.rpb[:, of_y, of_x].flatten(1))

        return Attended([keys(*pixel) for pixel in pixels])

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'kernel_size')
