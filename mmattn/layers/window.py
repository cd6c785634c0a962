import torch
from einops import rearrange
from torch import nn

from mmattn.checks import check_at_least, check_divides, check_map, check_rate
from mmattn.layers.projection import split_linear
from mmattn.ops.attention import attention
from mmattn.ops.partition import (
    pad_to_multiple,
    relative_position_index,
    shifted_window_regions,
    window_merge,
    window_partition,
)

OTHER_REGION = -100.0   # logit of a pair from different borders, as Swin and DAT add it


class LocalAttention(nn.Module):
    """Multi-head attention inside windows with a relative position bias (Swin, eq. 4; the local attention of DAT).

    Any map size: the map is padded with zeros at the bottom and right to whole windows. Padded tokens take part as
    keys, as in the published models.

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads h, must divide C.
        window_size (int): side of a window in pixels.
        attn_drop_rate (float): dropout of attention weights.
        drop_rate (float): dropout of the output.
        shift_size (int): windows are displaced by this many pixels; 0 <= shift_size < window_size.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: heads do not divide the channels, or the shift is out of range.
    """

    def __init__(self, embed_dims, num_heads, window_size=7, attn_drop_rate=0.0, drop_rate=0.0, shift_size=0):
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_at_least('window_size', window_size, 1)
        check_at_least('shift_size', shift_size, 0)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        if shift_size >= window_size:
            raise ValueError(f'shift_size={shift_size} is outside [0, window_size={window_size})')
        self.num_heads = num_heads
        self.window = (window_size, window_size)
        self.shift_size = shift_size
        self.attn_drop_rate = attn_drop_rate
        self.proj_qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj_out = nn.Linear(embed_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)
        self.register_buffer('relative_position_index', relative_position_index(self.window), persistent=False)

    def windows(self, x):
        """A channels-last map of whole windows (B, H, W, C) -> its G windows of N tokens (B, G, N, C)."""
        return window_partition(x.roll((-self.shift_size, -self.shift_size), (1, 2)) if self.shift_size else x,
                                self.window)

    def projections(self, windows):
        """Queries, keys and values (B G, h, N, d) of windows (B, G, N, C)."""
        return [rearrange(t, 'b g n (h d) -> (b g) h n d', h=self.num_heads)
                for t in split_linear(self.proj_qkv, windows, [windows.shape[-1]] * 3)]

    def bias(self, size):
        """What is added to the logits on a map of whole windows, `size` (H, W): (G, h, N, N), or (1, h, N, N) where
        it is the same in all windows."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if not self.shift_size:
            return bias
        region = shifted_window_regions(size, self.window, self.shift_size, bias.device)
        other = region[:, :, None] != region[:, None]                                              # (G, N, N)
        return bias + OTHER_REGION * other[:, None]

    def forward(self, x):
        check_map(x, self.proj_out.in_features, self.proj_out.weight.dtype)
        height, width = x.shape[2:]
        x = pad_to_multiple(x.permute(0, 2, 3, 1), self.window)
        size = x.shape[1:3]
        bias = self.bias(size)
        if len(bias) > 1:
            bias = bias.repeat(len(x), 1, 1, 1)
        windows = self.windows(x)
        q, k, v = self.projections(windows)
        out = attention(q, k, v, bias, self.attn_drop_rate if self.training else 0.0)
        out = self.proj_out(rearrange(out, '(b g) h n d -> b g n (h d)', g=windows.shape[1]))
        out = window_merge(out, self.window, size)
        if self.shift_size:
            out = out.roll((self.shift_size, self.shift_size), (1, 2))
        return self.drop(out[:, :height, :width]).permute(0, 3, 1, 2)


class ShiftedWindowAttention(LocalAttention):
    """Local attention whose windows are displaced by half a window, rounded up (Liu et al., ICCV 2021, section 3.2).

    Arguments and shapes as in `LocalAttention`.
    """

    def __init__(self, embed_dims, num_heads, window_size=7, **kwargs):
        check_at_least('window_size', window_size, 2)
        super().__init__(embed_dims, num_heads, window_size, shift_size=(window_size + 1) // 2, **kwargs)
