from einops import rearrange
from torch import nn

from mmattn.checks import check_choice, check_divides, check_kernel, check_map
from mmattn.ops.attention import attention


class Attention(nn.Module):
    """Multi-head attention of every pixel to every pixel, with locally enhanced position encoding (LePE; CSWin, Dong
    et al., CVPR 2022, eq. 9): a depth-wise convolution is added to the output of attention.

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads h, must divide C.
        qkv_bias (bool): whether the projections to queries, keys and values have a bias.
        lepe_kernel_size (int): of the depth-wise convolution, odd; 0 for none.
        lepe_of (str): what it reads: 'value', or 'input' as in the published BiFormer.

    Shapes:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: heads do not divide the channels; unknown `lepe_of`; an even kernel.
    """

    def __init__(self, embed_dims, num_heads=8, qkv_bias=False, lepe_kernel_size=0, lepe_of='value'):
        super().__init__()
        check_divides('embed_dims', embed_dims, 'num_heads', num_heads)
        check_choice('lepe_of', lepe_of, ('value', 'input'))
        if lepe_kernel_size:
            check_kernel('lepe_kernel_size', lepe_kernel_size)
        self.num_heads = num_heads
        self.lepe_of = lepe_of
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.lepe = nn.Conv2d(embed_dims, embed_dims, lepe_kernel_size, padding=lepe_kernel_size // 2,
                              groups=embed_dims) if lepe_kernel_size else None

    def forward(self, x):
        check_map(x, self.proj.in_features, self.proj.weight.dtype)
        height = x.shape[2]
        q, k, v = rearrange(self.qkv(x.permute(0, 2, 3, 1)), 'b y x (three h d) -> three b h (y x) d', three=3,
                            h=self.num_heads)
        out = rearrange(attention(q, k, v), 'b h (y x) d -> b y x (h d)', y=height)
        if self.lepe:
            source = x if self.lepe_of == 'input' else rearrange(v, 'b h (y x) d -> b (h d) y x', y=height)
            out = out + self.lepe(source).permute(0, 2, 3, 1)
        return self.proj(out).permute(0, 3, 1, 2)
