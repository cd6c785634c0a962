from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from mmattn.checks import check_at_least, check_divides, check_map, check_rate
from mmattn.errors import ArgumentError
from mmattn.layers.attended import Attended, centers, keys_of
from mmattn.layers.describe import arguments_repr
from mmattn.layers.projection import split_linear
from mmattn.ops.attention import attention
from mmattn.ops.partition import (
    crop,
    pad_to_multiple,
    relative_position_index,
    shifted_window_regions,
    window_merge,
    window_partition,
)

OTHER_REGION = -100.0   # logit of a pair from different borders, as Swin and DAT add it


class LocalAttention(nn.Module):
    """Multi-head attention inside windows with a relative position bias (Swin; Liu et al., ICCV 2021, eq. 4; the local
    attention of DAT).

    For token i, in each head, over the tokens j of its window::

        z_i = sum_j softmax_j(q_i . k_j / sqrt(d) + T[p_i - p_j]) v_j       q, k, v = W_qkv x
        y   = W_out (concat of the heads' z)

    p: position (y, x) of a token in its window. T: bias table of the head, an entry per displacement, query - key.

    Any map size: the map is padded with zeros at the bottom and right to whole windows. Padded tokens take part as
    keys, as in the published models.

    Args:
        embed_dims: channels C.
        num_heads: heads h, must divide C.
        window_size: side of a window in pixels.
        attn_drop_rate: dropout of attention weights.
        drop_rate: dropout of the output.
        shift_size: windows are displaced by this many pixels; 0 <= shift_size < window_size.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ArgumentError: heads do not divide the channels, or the shift is out of range.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, window_size: int = 7,
                 attn_drop_rate: float = 0.0, drop_rate: float = 0.0, shift_size: int = 0) -> None:
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_at_least('window_size', window_size, 1)
        check_at_least('shift_size', shift_size, 0)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        if shift_size >= window_size:
            raise ArgumentError(f'shift_size={shift_size} is outside [0, window_size={window_size})')
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = shift_size
        self.attn_drop_rate = attn_drop_rate
        self.proj_qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj_out = nn.Linear(embed_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)
        # T, a row per displacement, row by row
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)
        self.relative_position_index: Tensor
        self.register_buffer('relative_position_index', relative_position_index(self.window), persistent=False)

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of a window."""
        return self.window_size, self.window_size

    def windows(self, x: Tensor) -> Tensor:
        """A channels-last map of whole windows (B, H, W, C) -> its G windows of N tokens (B, G, N, C)."""
        return window_partition(x.roll((-self.shift_size, -self.shift_size), (1, 2)) if self.shift_size else x,
                                self.window)

    def projections(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B G, h, N, d) of windows (B, G, N, C)."""
        q, k, v = (rearrange(t, 'b g n (h d) -> (b g) h n d', h=self.num_heads)
                   for t in split_linear(self.proj_qkv, windows, [windows.shape[-1]] * 3))
        return q, k, v

    def bias(self, size: Sequence[int]) -> Tensor:
        """What is added to the logits on a map of whole windows, `size` (H, W): (G, h, N, N), or (1, h, N, N) where
        it is the same in all windows."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if not self.shift_size:
            return bias
        region = shifted_window_regions(size, self.window, self.shift_size, bias.device)
        other = region[:, :, None] != region[:, None]                                              # (G, N, N)
        return bias + OTHER_REGION * other[:, None]

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.embed_dims, self.proj_out.weight.dtype)
        height, width = x.shape[2:]
        x = pad_to_multiple(x.permute(0, 2, 3, 1), self.window)
        size = x.shape[1:3]
        bias = self.bias(size)
        if self.shift_size:
            bias = bias.repeat(len(x), 1, 1, 1)
        windows = self.windows(x)
        q, k, v = self.projections(windows)
        out = attention(q, k, v, bias, self.attn_drop_rate if self.training else 0.0)
        out = self.proj_out(rearrange(out, '(b g) h n d -> b g n (h d)', g=windows.shape[1]))
        out = window_merge(out, self.window, size)
        if self.shift_size:
            out = out.roll((self.shift_size, self.shift_size), (1, 2))
        return self.drop(crop(out, height, width)).permute(0, 3, 1, 2)

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """See `mmattn.layers.attended.Attends`; the windows are its groups."""
        height, width = x.shape[2:]
        x = pad_to_multiple(x.permute(0, 2, 3, 1), self.window)
        size = x.shape[1:3]
        positions = self.windows(centers(size, x.device)[None])[0]                              # (G, N, 2)
        count, tokens = positions.shape[:2]
        rows, columns = positions.long().unbind(-1)
        group, token = (torch.empty(size, dtype=torch.long, device=x.device) for _ in range(2))     # of each pixel
        group[rows, columns] = torch.arange(count, device=x.device)[:, None].expand(-1, tokens)
        token[rows, columns] = torch.arange(tokens, device=x.device).expand(count, -1)
        q, k, _ = self.projections(self.windows(x))
        bias = self.bias(size).expand(count, -1, -1, -1)
        return Attended([keys_of(q[g, :, n], k[g], positions[g], bias[g, :, n])
                         for g, n in ((group[pixel], token[pixel]) for pixel in pixels)],
                        groups=group[:height, :width])

    def extra_repr(self) -> str:
        return arguments_repr(self, 'embed_dims', 'num_heads', 'window_size')


class ShiftedWindowAttention(LocalAttention):
    """Local attention whose windows are displaced by half a window, rounded up (Liu et al., ICCV 2021, section 3.2).

    Arguments, formula and shapes as in `LocalAttention`. Tokens that only the displacement brought into one window get
    -100 added to their logit.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, window_size: int = 7, **kwargs: float) -> None:
        check_at_least('window_size', window_size, 2)
        super().__init__(embed_dims, num_heads, window_size=window_size, shift_size=(window_size + 1) // 2, **kwargs)
