import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from mmattn.checks import check_divides, check_kernel, check_map, check_rate
from mmattn.ops.neighborhood import neighborhood_attention


class NeighborhoodAttention(nn.Module):
    """Neighbourhood attention with relative position bias (Hassani et al., CVPR 2023, section 3.1; the local
    attention of DAT++): each pixel attends to the square of pixels around it, moved inside the map at the borders.

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads h, must divide C.
        kernel_size (int): side of the square, odd and at least 3.
        pad_small (bool): True pads a map smaller than the square with zeros at the bottom and right, which take part
            as keys, as in the published models; False uses a square as large as the map.
        attn_drop_rate (float): dropout of attention weights.
        drop_rate (float): dropout of the output.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: heads do not divide the channels; an even or too small kernel.
    """

    def __init__(self, embed_dims, num_heads, kernel_size=7, pad_small=True, attn_drop_rate=0.0, drop_rate=0.0):
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_kernel('kernel_size', kernel_size, 3)
        check_rate('attn_drop_rate', attn_drop_rate)
        check_rate('drop_rate', drop_rate)
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.pad_small = pad_small
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.rpb = nn.Parameter(torch.empty(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)
        nn.init.trunc_normal_(self.rpb, std=0.02)

    def projections(self, x):
        """Queries, keys and values (3, B, h, H', W', d) of a map (B, C, H, W), padded to (H', W') if it is small."""
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)
        if self.pad_small:
            x = F.pad(x, (0, 0, 0, max(self.kernel_size - width, 0), 0, max(self.kernel_size - height, 0)))
        return rearrange(self.qkv(x), 'b y x (three h d) -> three b h y x d', three=3, h=self.num_heads)

    def forward(self, x):
        check_map(x, self.proj.in_features, self.proj.weight.dtype)
        height, width = x.shape[2:]
        q, k, v = self.projections(x)
        out = neighborhood_attention(q, k, v, self.rpb, self.kernel_size, self.attn_drop_rate if self.training else 0.0)
        out = rearrange(out[..., :height, :width, :], 'b h y x d -> b y x (h d)')
        return self.drop(self.proj(out)).permute(0, 3, 1, 2)
