from einops import rearrange
from torch import nn
from torch.nn import functional as F

from mmattn.checks import check_at_least, check_divides, check_map, check_rate
from mmattn.layers.norm import LayerNorm2d
from mmattn.ops.attention import attention


class SpatialReductionAttention(nn.Module):
    """Attention of every pixel to a map shrunk by a strided convolution (PVT; Wang et al., ICCV 2021, eqs. 1 to 4).

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads h, must divide C.
        sr_ratio (int): the map shrinks by this factor along each side; 1 leaves it. Rows and columns that do not fill
            a cell are left out, as in the published models, unless there is no whole cell: then zeros complete it.
        attn_drop_rate (float): dropout of attention weights.
        drop_rate (float): dropout of the output.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: heads do not divide the channels; sr_ratio below 1.
    """

    def __init__(self, embed_dims, num_heads, sr_ratio=1, attn_drop_rate=0.0, drop_rate=0.0):
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_at_least('sr_ratio', sr_ratio, 1)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.attn_drop_rate = attn_drop_rate
        self.q = nn.Conv2d(embed_dims, embed_dims, 1)
        self.kv = nn.Conv2d(embed_dims, 2 * embed_dims, 1)
        self.proj = nn.Conv2d(embed_dims, embed_dims, 1)
        self.drop = nn.Dropout(drop_rate)
        self.reduction = nn.Sequential(nn.Conv2d(embed_dims, embed_dims, sr_ratio, sr_ratio),
                                       LayerNorm2d(embed_dims)) if sr_ratio > 1 else nn.Identity()

    def reduce(self, x):
        """The map (B, C, H, W) that keys and values are made of, shrunk."""
        height, width = x.shape[2:]
        return self.reduction(F.pad(x, (0, max(self.sr_ratio - width, 0), 0, max(self.sr_ratio - height, 0))))

    def forward(self, x):
        check_map(x, self.proj.in_channels, self.proj.weight.dtype)
        q = rearrange(self.q(x), 'b (h d) y x -> b h (y x) d', h=self.num_heads)
        k, v = rearrange(self.kv(self.reduce(x)), 'b (two h d) y x -> two b h (y x) d', two=2, h=self.num_heads)
        out = attention(q, k, v, dropout=self.attn_drop_rate if self.training else 0.0)
        return self.drop(self.proj(rearrange(out, 'b h (y x) d -> b (h d) y x', y=x.shape[2])))
